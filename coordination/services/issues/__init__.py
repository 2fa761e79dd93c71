"""Issues of a foreign tracker: rules within a transaction."""
