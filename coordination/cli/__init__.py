"""The command line. Modules import what is slow to load inside of functions, so that --help is fast."""
