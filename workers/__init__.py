"""The Celery side: an app whose messages say only "have a look", and the runners that execute what was claimed."""

from coordination.base import inherited_variables

# Here, because nothing of Celery that is imported by us is imported before.
inherited_variables.remove_from()
