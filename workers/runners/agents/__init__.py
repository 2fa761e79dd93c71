"""Coding agents as programs: how each is started, and what its output means. One module an agent, one protocol."""
