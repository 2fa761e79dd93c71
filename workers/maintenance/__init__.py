"""Background upkeep in each worker: supervisor ticks, cleanup, cost settling."""
