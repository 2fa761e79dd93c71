"""The life of a worker process: start, drain, signals, restart, watchdogs."""
