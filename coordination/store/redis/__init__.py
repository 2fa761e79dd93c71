"""What lives in Redis and may be lost at any moment: nudges that only save time. SQL never depends on them."""
