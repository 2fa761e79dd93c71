"""Jobs: one module per job kind, each with one registration."""

from coordination.domain.jobs.agent_programs import AGENTS, CUSTOM
from coordination.domain.jobs.base import Job
from coordination.domain.jobs.kinds.agent_call import COUNTS, OURS, AgentCall, check_account_for
from coordination.domain.jobs.kinds.chat_call import MAX_STEPS, ChatCall
from coordination.domain.jobs.kinds.python_call import PythonCall, target_of
from coordination.domain.jobs.kinds.shell import Shell
from coordination.domain.jobs.registry import IN_WORKTREE, JOBS, KINDS, PAID_KINDS, job_class, kind_label, parse_job

__all__ = [
    "AGENTS",
    "COUNTS",
    "CUSTOM",
    "IN_WORKTREE",
    "JOBS",
    "KINDS",
    "MAX_STEPS",
    "OURS",
    "PAID_KINDS",
    "AgentCall",
    "ChatCall",
    "Job",
    "PythonCall",
    "Shell",
    "check_account_for",
    "job_class",
    "kind_label",
    "parse_job",
    "target_of",
]
