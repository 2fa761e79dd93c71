"""Celery's broker: queues, messages, signatures and the publisher."""
