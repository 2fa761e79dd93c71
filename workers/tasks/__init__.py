"""Celery tasks. Each takes ids, is safe to run twice, and delegates the work."""
