"""What Flower and ``celery inspect`` are allowed: a password to come in, and none to read.

Flower can end workers and shows what jobs are called, and by itself it listens to everybody.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

from celery import bootsteps

from coordination.base.errors import SettingsError
from coordination.base.urls import masked

_WAYS_IN = ("basic_auth", "auth", "conf")


def guard(arguments: Sequence[str], environ: MutableMapping[str, str] = os.environ) -> None:
    """Where *arguments* start Flower: let it listen on loopback unless they say otherwise, and ask for a password.

    Raises SettingsError when nothing says by which password.
    """
    if "flower" not in arguments:
        return
    environ.setdefault("FLOWER_ADDRESS", "127.0.0.1")
    options = {word.partition("=")[0].lstrip("-").replace("-", "_") for word in arguments if word.startswith("--")}
    given = options | {name.removeprefix("FLOWER_").lower() for name, value in environ.items() if value}
    if not given.intersection(_WAYS_IN) and not Path("flowerconfig.py").exists():
        raise SettingsError(
            "Flower has no password, and whoever reaches it controls the workers",
            hint="Set FLOWER_BASIC_AUTH=NAME:PASSWORD in its environment",
            field="FLOWER_BASIC_AUTH",
        )


class Statistics(bootsteps.StartStopStep):  # type: ignore[misc]
    """What a worker says of its broker when it is asked: all but passwords, which Celery shows in a socket's URL."""

    requires = ("celery.worker.consumer.connection:Connection",)

    def info(self, consumer: Any) -> dict[str, Any]:
        """Stands for what Celery's own step says."""
        if not consumer.connection:
            return {"broker": "N/A"}
        told = {name: value for name, value in consumer.connection.info().items() if name != "password"}
        return {"broker": {name: masked(value) if isinstance(value, str) else value for name, value in told.items()}}
