"""The two queues: jobs, and the short ticks of supervisors, which must never wait behind a four-hour job."""

JOBS = "jobs"
SUPERVISE = "supervise"
PREFIX = "coord:"

ALL = (JOBS, SUPERVISE)
