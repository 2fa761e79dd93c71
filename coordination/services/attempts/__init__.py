"""The end of attempts and of tasks: ``end`` writes it, ``rescue`` ends attempts whose worker is gone."""
