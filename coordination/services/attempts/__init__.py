"""The end of attempts and of tasks: ``end`` writes it, ``rescue`` finds those whose worker cannot."""
