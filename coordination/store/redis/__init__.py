"""Data in Redis, which may be lost at any moment: wakeups that save time. SQL never depends on it."""
