"""The schedule of Celery beat, as data. An entry only asks SQL what is due, so two beats or none lose nothing."""

from typing import Any

BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    # Starts a tick for every project whose supervisor is due, and marks silent workers as dead.
    "sweep": {"task": "coordination.sweep", "schedule": 5.0, "options": {"expires": 10, "queue": "supervise"}},
    # Deletes expired data, if that has not been done for COORD_RETENTION_EVERY.
    "retain": {"task": "coordination.retain", "schedule": 300.0, "options": {"expires": 300, "queue": "supervise"}},
}
