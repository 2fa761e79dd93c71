"""Issues of a foreign tracker: read-only reports."""
