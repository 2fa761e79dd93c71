"""Workers and supervisors: read-only reports."""
