"""Names of the coding agents' programs: the names of the adapter modules, listed without importing them."""

from __future__ import annotations

import pkgutil
from importlib.util import find_spec

CUSTOM = "custom"
"""Any other program; the job describes its command line and output."""


def _adapter_names() -> tuple[str, ...]:
    workers = find_spec("workers")  # of a top-level package, this imports nothing
    folders = workers.submodule_search_locations if workers else None
    modules = pkgutil.iter_modules([f"{folder}/runners/agents/adapters" for folder in folders or ()])
    return tuple(sorted((module.name for module in modules), key=lambda name: (name == CUSTOM, name)))


AGENTS = _adapter_names()
"""Programs of coding agents that a job may name."""

CONFIGURE_SERVERS = ("codex", "gemini", "opencode", CUSTOM)
"""Programs that read MCP servers from their own configuration; the others get our server as arguments."""
