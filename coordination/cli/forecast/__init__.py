"""Commands that predict what a plan takes and costs."""
