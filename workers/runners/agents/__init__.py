"""Coding agents: how each program is started, and what its output means. One adapter per agent."""
