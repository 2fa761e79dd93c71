"""Tasks, their attempts and runs: operations across nouns, one transaction each."""
