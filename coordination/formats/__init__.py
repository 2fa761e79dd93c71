"""Conversion between file formats and records of the domain."""
