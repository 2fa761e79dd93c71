"""One story across nouns, named by its verb. Flows do not import flows: what two share lies a floor below."""
