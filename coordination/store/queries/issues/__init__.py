"""Issues of a foreign tracker: statements."""
