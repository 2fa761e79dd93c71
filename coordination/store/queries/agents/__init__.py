"""Agents: statements."""
