"""What work is expected to take and cost: operations across nouns, one transaction each."""
