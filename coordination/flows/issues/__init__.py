"""Issues of a foreign tracker: operations across nouns, one transaction each."""
