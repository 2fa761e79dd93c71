"""Variables of other programs, which Celery, kombu and billiard would take for theirs: they change nothing here.

Whoever has exported ``CELERY_BROKER_URL`` or ``APP`` for a program of their own means that program. Our processes put
such variables aside before Celery reads them; what they pass on to jobs and to further processes of ours is complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, MutableMapping

_NAMES = frozenset(
    {
        *("APP", "BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE", "SKIP_CHECKS", "DJANGO_SETTINGS_MODULE"),
        *("MP_LOG", "MP_MAIN_FILE", "MP_FORCED_CONFIG", "FORKED_BY_MULTIPROCESSING", "PICKLE_PROTOCOL"),
        *("C_BENCH", "C_BENCH_EVERY", "C_FAKEFORK", "C_IMPDEBUG", "C_REMDEBUG", "C_STRICT_APP", "C_WARN_APP"),
        *("C_WNOCONF", "AUTOSCALE_KEEPALIVE", "DISABLE_TRACEBACKS", "EVENTLET_NOBLOCK", "NOSETPS", "TIMER_DEBUG"),
        *("USE_FAST_LOCALS", "REMAP_SIGTERM"),
    }
)
_PREFIXES = ("CELERY_", "CELERYD_", "CELERYBEAT_", "KOMBU_", "_MP_FORK_")

_aside: dict[str, str] = {}


def is_of_others(name: str) -> bool:
    """Whether Celery, or a library of its, would take the variable for its own."""
    return name in _NAMES or name.startswith(_PREFIXES)


def put_aside(environ: MutableMapping[str, str] = os.environ) -> None:
    """Take such variables out of *environ*, by default this process's own."""
    for name in _of_others(environ):
        value = environ.pop(name)
        if environ is os.environ:
            _aside[name] = value


def complete() -> dict[str, str]:
    """This process's environment as it was started with, for whoever is meant by name."""
    return _aside | dict(os.environ)


def _of_others(names: Iterable[str]) -> list[str]:
    return [name for name in names if is_of_others(name)]
