"""Joins the embedded stack, which commands use when none is configured."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordination.base.errors import Conflict, CoordinationError
from coordination.settings import Settings

if TYPE_CHECKING:
    from coordination.stack.joining import JoinedStack


def rescue_from(settings: Settings) -> Callable[[int], bool]:
    """Return the callback for a dead worker process, which imports the database library only when called."""

    def on_worker_death(pid: int) -> bool:
        from coordination.api.stack import rescue

        return rescue(settings, pid)

    return on_worker_death


@dataclass(slots=True)
class UsedStack:
    """The stack that a command uses. ``problem`` returns its error, if it has one.

    ``stays``: the reasons why the stack stays up after this command; None while the command uses it.
    """

    redis_url: str | None
    problem: Callable[[], CoordinationError | None]
    joined: JoinedStack | None = None
    stays: list[str] | None = None

    def note_run(self, run_id: str) -> None:
        """Record the run that this command follows, for other users of the stack."""
        if self.joined is not None:
            self.joined.membership.note_run(run_id)


def join_stack(settings: Settings, command: str) -> JoinedStack:
    """Join the stack of the home folder; start it if necessary. *command*: this command, as others see it."""
    from coordination.api.stack import prepare_store
    from coordination.domain.fleet.served_workspaces import parse_names
    from coordination.stack.joining import join

    argv = [sys.executable, "-P", "-m", "coordination.cli.stack.process"]
    joined = join(settings, argv, command, prepare=lambda: prepare_store(settings))
    serves = joined.record.serves
    if settings.workspace not in (parse_names(serves) or [settings.workspace]):
        joined.leave()
        raise Conflict(
            f"The stack that runs in {settings.home} runs jobs of {serves}, and none of {settings.workspace}",
            hint="Start a stack with another COORD_HOME, or restart that one with COORD_WORKSPACES for both",
        )
    return joined


@contextmanager
def stack_for(settings: Settings, command: str) -> Iterator[UsedStack]:
    """Use the configured stack, or that of the home folder. *command*: this command, as others see it.

    The stack of the home folder stops at the end unless others use it.
    """
    from coordination.stack.interrupts import interruptible

    if settings.redis_url is not None:
        from coordination.api.stack import check_redis, prepare_store

        prepare_store(settings)
        check_redis(settings.redis_url, settings)
        stack = UsedStack(settings.redis_url, problem=lambda: None)
        yield stack
        return
    with interruptible():
        joined = join_stack(settings, command)
        stack = UsedStack(joined.record.redis_url, problem=joined.problem, joined=joined)
        try:
            yield stack
        except KeyboardInterrupt:
            if joined.is_last():
                with contextlib.suppress(OSError):  # the terminal may be gone
                    print("\ncoord: handing its jobs back; Ctrl-C again ends them at once", file=sys.stderr, flush=True)
            raise
        finally:
            stack.stays = joined.leave()
