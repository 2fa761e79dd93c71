"""Agents: tables."""
