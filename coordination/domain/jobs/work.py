"""The names of ``coordination.domain.jobs`` from when they were here."""

from coordination.domain.jobs import *  # noqa: F403
from coordination.domain.jobs import Job as Work
from coordination.domain.jobs import __all__ as _names
from coordination.domain.jobs import parse_job as parse_work

__all__ = [*_names, "Work", "parse_work"]  # noqa: PLE0604
