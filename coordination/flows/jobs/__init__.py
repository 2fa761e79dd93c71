"""What a job is and what it leaves: operations across nouns, one transaction each."""
