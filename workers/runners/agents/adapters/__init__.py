"""Adapters of coding agents: each module of this package holds one class, and its ``name`` is the module's."""

from __future__ import annotations

from importlib import import_module

from coordination.domain.jobs.agent_programs import AGENTS
from workers.runners.agents.base import Adapter


def load_adapter(name: str) -> Adapter:
    """Return the adapter in the module *name* of this package."""
    module = import_module(f"{__name__}.{name}")
    classes = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    adapters = [value for value in classes if isinstance(value, type) and getattr(value, "name", None) == name]
    if len(adapters) != 1:
        raise LookupError(f"{module.__name__} must hold one class whose name is {name!r}, not {len(adapters)}")
    adapter: Adapter = adapters[0]()
    return adapter


ADAPTERS = {name: load_adapter(name) for name in AGENTS}
"""All adapters by the agent's name in jobs."""
