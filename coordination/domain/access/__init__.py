"""Principals, tokens and authority: pure records and rules."""
