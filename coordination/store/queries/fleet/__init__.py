"""Workers and supervisors: statements."""
