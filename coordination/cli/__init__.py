"""The command line. Modules import what they need inside of functions, so that --help is fast."""
