"""Graphs of tasks: ``rows`` says what is stored of one, ``grow`` adds to a run what its own work finds."""
