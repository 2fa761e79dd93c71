"""Workers and supervisors: operations across nouns, one transaction each."""
