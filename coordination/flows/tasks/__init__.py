"""Flows about tasks, one verb per file."""
