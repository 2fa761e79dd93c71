"""Names of the queues. Supervisor ticks have a queue of their own, so that they never wait behind a four-hour job."""

JOBS = "jobs"
SUPERVISE = "supervise"
PREFIX = "coord:"

CONTROL = "celery.pidbox"
"""The exchange of Celery's control commands."""

ALL = (JOBS, SUPERVISE)

OF_TASK = {
    "coordination.run": JOBS,
    "coordination.tick": SUPERVISE,
    "coordination.sweep": SUPERVISE,
    "coordination.retain": SUPERVISE,
}
"""The only queue in which each Celery task is accepted. Messages that call any other task are refused."""
