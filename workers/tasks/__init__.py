"""Thin shells: each takes ids, is safe to run twice, and hands over to what does the work."""
