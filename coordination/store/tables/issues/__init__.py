"""Issues of a foreign tracker: tables."""
