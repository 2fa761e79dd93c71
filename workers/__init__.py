"""The Celery side: an app whose messages say only "have a look", and the runners that execute what was claimed."""
