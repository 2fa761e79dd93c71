"""The end of attempts: pure records and rules."""
