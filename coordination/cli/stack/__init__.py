"""Commands that start and stop processes: up, down, worker, beat, migrate."""
