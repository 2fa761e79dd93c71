"""What beat starts, and how often: pure data. Two beats, or none, lose nothing: an entry only asks SQL what is due."""

from typing import Any

BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    # Starts a tick for every project whose supervisor is due, and declares silent workers dead.
    "sweep": {"task": "coordination.sweep", "schedule": 5.0, "options": {"expires": 10, "queue": "supervise"}},
    # Deletes what is older than it is to be kept, if that has not been done for COORD_RETENTION_EVERY.
    "retain": {"task": "coordination.retain", "schedule": 300.0, "options": {"expires": 300, "queue": "supervise"}},
}
