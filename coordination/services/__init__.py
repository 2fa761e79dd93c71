"""One noun's rules inside a transaction: load, decide, write, append the event. Services do not import services."""
