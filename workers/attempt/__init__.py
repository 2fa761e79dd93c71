"""Everything around a job: steps before and after its runner."""
