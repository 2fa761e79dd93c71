"""Workers and supervisors: rules within a transaction."""
