"""Variables of other programs that Celery, kombu and billiard would read, and that must have no effect here.

An exported ``CELERY_BROKER_URL`` or ``APP`` is meant for the user's own program. Our processes remove such variables
before Celery reads them; jobs and further processes of ours get the complete environment.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

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

_removed: dict[str, str] = {}


def is_read_by_celery(name: str) -> bool:
    """Return whether Celery or one of its libraries would read the variable."""
    return name in _NAMES or name.startswith(_PREFIXES)


def remove_from(environ: MutableMapping[str, str] = os.environ) -> None:
    """Remove such variables from *environ*, by default this process's own."""
    for name in list(filter(is_read_by_celery, environ)):
        value = environ.pop(name)
        if environ is os.environ:
            _removed[name] = value


def original_environment() -> dict[str, str]:
    """Return this process's original environment."""
    return _removed | dict(os.environ)
