"""The command line: argv in, sentences or one JSON document out. Imports late, so that --help is fast."""
