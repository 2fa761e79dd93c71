"""Resources that the runners of one worker process share."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.runners.pool import InterpreterPool
from workers.runners.process import Launcher
from workers.runners.provider_environment import ProviderEnvironment


@dataclass(frozen=True, slots=True)
class RunnerResources:
    """A launcher, a pool of interpreters, and the source of provider variables."""

    launcher: Launcher
    pool: InterpreterPool
    provider_environment: ProviderEnvironment = field(default_factory=ProviderEnvironment)
