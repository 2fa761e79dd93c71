"""Plans: pure records and rules."""
