"""The end of attempts: ``end`` writes it, ``rescue`` ends attempts whose worker is gone."""
