"""Jobs and their artifacts, output and merges: operations across nouns, one transaction each."""
