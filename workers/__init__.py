"""The Celery side: an app whose messages say only "have a look", and the runners that execute what was claimed."""

from coordination import surrounding_variables

# Here, because nothing of Celery that is imported by us is imported before.
surrounding_variables.put_aside()
