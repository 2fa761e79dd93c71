"""Stories about tasks, one verb a file."""
