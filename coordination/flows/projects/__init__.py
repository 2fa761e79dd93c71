"""Stories about projects, one verb a file."""
