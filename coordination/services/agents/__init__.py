"""Agents: rules within a transaction."""
