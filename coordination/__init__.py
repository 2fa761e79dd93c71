"""Coordination: a job system for coding agents and other long-running work on your repositories.

``coordination.api.public`` lists the public names. They are imported at the first use of one, so that a job that only
reports its usage does not load the database library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from coordination.api.public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """Import the public names when one of them, or ``__all__``, is used first (PEP 562)."""
    if name in {"__all__", "connect"} or name[:1].isupper():  # names of modules begin with a lower-case letter
        public = vars(import_module("coordination.api.public"))
        names = {key: value for key, value in public.items() if not key.startswith("_")}
        globals().update(names, __all__=sorted(names))
    if name not in globals():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
