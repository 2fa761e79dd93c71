"""Workers and supervisors: pure records and rules."""
