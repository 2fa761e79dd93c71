"""Agents: read-only reports."""
