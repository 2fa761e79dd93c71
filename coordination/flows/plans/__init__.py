"""Plans: operations across nouns, one transaction each."""
