"""The two queues: jobs, and the short ticks of supervisors, which must never wait behind a four-hour job."""

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
"""Which queue each of our Celery tasks is called in. No message calls another one."""
