"""Measurements of the product beside raw Celery, in one run on one machine. ``python -m benchmarks [PART …]``."""
