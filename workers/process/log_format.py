"""Log format of worker processes: readable lines or JSON, without terminal control sequences."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from coordination.base.printable import clean
from coordination.settings import load_settings


def configure_logging() -> None:
    """Write structured logs to stderr, as readable lines or JSON."""
    import logging

    settings = load_settings()
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _printable,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _printable(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Remove control sequences, which errors and names may contain and a terminal would obey."""
    return {name: clean(value) if isinstance(value, str) else value for name, value in event.items()}
