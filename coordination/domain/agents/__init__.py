"""Agents: pure records and rules."""
