"""What the runners of one worker process share."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.runners.pool import InterpreterPool
from workers.runners.process import Launcher
from workers.runners.provider_environment import ProviderEnvironment


@dataclass(frozen=True, slots=True)
class Shared:
    """One launcher, one pool of interpreters, and one source of the variables that jobs are given."""

    launcher: Launcher
    pool: InterpreterPool
    providing: ProviderEnvironment = field(default_factory=ProviderEnvironment)
