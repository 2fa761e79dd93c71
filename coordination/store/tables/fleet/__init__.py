"""Workers and supervisors: tables."""
