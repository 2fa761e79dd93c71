"""Runs chats with models: output is the answer, its story comes while it works. The first imports what they need."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

from coordination.domain.attempts import Claim, Outcome, Result
from coordination.domain.chat import ChatCall
from coordination.domain.events import EventType
from coordination.domain.work import parse_work
from coordination.errors import Refused
from workers.runners import environment, program, usage
from workers.runners.agents.base import Transcript
from workers.runners.base import Control
from workers.runners.chat.loop import Loop, Make, wait_for
from workers.runners.chat.providers import access, needs_of
from workers.runners.chat.servers import Servers
from workers.runners.output import Capture, clean_json
from workers.runners.process import Launcher
from workers.runners.watch import Interruption

_WITHOUT = 'Run, where the worker is installed: pip install "coordination[chat]"'


class ChatRunner:
    """Executes chats, all of a process on one loop."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._loop = Loop()

    def run(self, claim: Claim, control: Control) -> Result:
        """Hold the conversation to its end."""
        if (stopped := program.stopped_early(control)) is not None:
            return stopped
        began = time.monotonic()
        try:
            call, secrets = _checked(claim)
            reached = access(call, secrets)
            conversation, told = _prepared(call, control, secrets)
        except Refused as refusal:
            return program.refused(refusal.sentence())
        if claim.workdir is not None and not os.path.isdir(claim.workdir):  # noqa: PTH112 - as for a shell
            return program.missing_folder(claim.workdir)
        with (
            environment.Scratch(control.scratch, claim) as scratch,
            Servers(self._launcher, call.tools, secrets) as servers,
        ):
            try:
                servers.start(claim, control, env=call.env, scratch=scratch)
            except Refused as refusal:
                return program.refused(refusal.sentence())
            except (OSError, ValueError) as error:
                return program.cannot_start(error)
            if not any(server.command for server in servers.all):
                control.event(EventType.STARTED, {"model": call.chat})
            interruption = self._hold(
                lambda moved: conversation.hold(reached, servers.all, moved), claim, control, began=began
            )
            servers.fast = interruption is not None and interruption.outcome is Outcome.LOST
        spent, warnings = usage.read(scratch.costs)
        log = secrets.hide("\n".join(filter(None, [servers.log(), *(f"[chat] {one}" for one in told.remarks)])))
        return _result(
            interruption,
            told,
            conversation.value,
            hide=secrets.hide,
            limit=control.output_limit,
            usage=(*told.usage.values(), *spent),
            log=usage.with_warnings(log, warnings) or None,
        )

    def close(self) -> None:
        """End the loop."""
        self._loop.close()

    def _hold(self, make: Make, claim: Claim, control: Control, *, began: float) -> Interruption | None:
        exchange = self._loop.start(make, control.progress)
        try:
            interruption = wait_for(
                exchange, control, began=began, timeout=claim.timeout, stall_timeout=claim.stall_timeout
            )
        finally:
            exchange.close()
        if exchange.error is not None and interruption is None:
            raise exchange.error
        return interruption


def _checked(claim: Claim) -> tuple[ChatCall, environment.Secrets]:
    call = parse_work(claim.work)
    if not isinstance(call, ChatCall):
        raise Refused(f"A {call.kind} job is not a chat")
    named = [
        *call.secrets,
        *(name for server in call.tools if not isinstance(server, str) for name in server.get("secrets", ())),
    ]
    secrets = environment.Secrets([*needs_of(call).names, *named])
    if missing := [name for name in named if name not in secrets.values]:
        raise Refused(
            f"The worker's environment has no {', '.join(missing)}", hint="Set it where the worker is started"
        )
    if any("\0" in text for text in (*call.env, *call.env.values())):
        raise Refused("env holds a NUL character, which no environment can")
    return call, secrets


def _prepared(call: ChatCall, control: Control, secrets: environment.Secrets) -> tuple[Any, Transcript]:
    try:
        from workers.runners.chat.conversation import Conversation
        from workers.runners.chat.forms import Form
    except ImportError as error:
        raise Refused(f"This worker cannot hold chats: {error.name or error} is not installed", hint=_WITHOUT) from None
    told = Transcript(control.event, hide=secrets.hide, metered=lambda: control.spent(told.usage.values()))
    form = Form(call.schema) if call.schema else None
    return Conversation(call, told, form, limit=control.output_limit, paid=control.paid), told


def _result(
    interruption: Interruption | None,
    told: Transcript,
    value: Any,
    *,
    hide: Callable[[str], str],
    limit: int,
    usage: tuple[Any, ...],
    log: str | None,
) -> Result:
    """How the attempt ended."""
    outcome, error, retryable = Outcome.COMPLETED, None, True
    output = _hidden(value, hide) if told.result is None else hide(_bounded(told.result, limit))
    if interruption is not None:
        outcome, error, output = interruption.outcome, interruption.error, _partial(told, hide, limit)
    elif told.failure is not None:
        outcome, error, retryable = told.failure.outcome, hide(told.failure.sentence), told.failure.retryable
    elif not told.ended:
        outcome, error = Outcome.FAILED, "the conversation ended without an answer"
    elif told.result is None and (size := len(json.dumps(output).encode())) > limit:
        outcome, output = Outcome.FAILED, None
        error = f"the answer has {size:,} bytes as JSON, more than the {limit:,} that are kept"
    return Result(outcome, output=output, error=error, log=log, usage=usage, retryable=retryable)


def _partial(told: Transcript, hide: Callable[[str], str], limit: int) -> str | None:
    return None if told.result is None else hide(_bounded(told.result, limit))


def _bounded(text: str, limit: int) -> str:
    kept = Capture(limit)
    kept.feed(text.encode("utf-8", errors="replace"))
    return kept.text()


def _hidden(value: Any, hide: Callable[[str], str]) -> Any:
    """A JSON value without secrets, and without what no database can hold."""
    match value:
        case str():
            return hide(value)
        case list():
            return [_hidden(item, hide) for item in value]
        case dict():
            return {hide(name): _hidden(item, hide) for name, item in value.items()}
        case _:
            return clean_json(value)
