"""Plans: rules within a transaction."""
