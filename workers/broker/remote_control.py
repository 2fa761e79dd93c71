"""Access rules for Flower and ``celery inspect``: Flower needs a password, and neither shows one.

Flower can terminate workers and shows job names, and by default it listens on all interfaces without a password.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

from celery import bootsteps

from coordination.base.errors import SettingsError
from coordination.base.urls import masked

_AUTHENTICATION = ("basic_auth", "auth", "conf")


def guard(arguments: Sequence[str], environ: MutableMapping[str, str] = os.environ) -> None:
    """If *arguments* start Flower, default it to loopback and require a configured password.

    Raises SettingsError when no password is configured.
    """
    if "flower" not in arguments:
        return
    environ.setdefault("FLOWER_ADDRESS", "127.0.0.1")
    options = {word.partition("=")[0].lstrip("-").replace("-", "_") for word in arguments if word.startswith("--")}
    settings = options | {name.removeprefix("FLOWER_").lower() for name, value in environ.items() if value}
    if not settings.intersection(_AUTHENTICATION) and not Path("flowerconfig.py").exists():
        raise SettingsError(
            "Flower has no password, and whoever reaches it controls the workers",
            hint="Set FLOWER_BASIC_AUTH=NAME:PASSWORD in its environment",
            field="FLOWER_BASIC_AUTH",
        )


class Statistics(bootsteps.StartStopStep):  # type: ignore[misc]
    """Worker statistics about the broker, without the passwords that Celery would show."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def info(self, consumer: Any) -> dict[str, Any]:
        """Return connection details with passwords masked. Replaces the step of the same name in Celery."""
        if not consumer.connection:
            return {"broker": "N/A"}
        details = {name: value for name, value in consumer.connection.info().items() if name != "password"}
        return {"broker": {name: masked(value) if isinstance(value, str) else value for name, value in details.items()}}
