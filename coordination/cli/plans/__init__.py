"""Commands that take a plan file: run, submit, resume, check, schema."""
