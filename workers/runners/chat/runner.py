"""Runs chats with models: output is the answer, its story comes while it works. The first imports what they need."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from coordination.base.errors import NotFound, Refused
from coordination.base.extras import install_command
from coordination.domain.jobs import ChatCall
from coordination.domain.jobs.provider_error_table import ProviderErrorClass
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from coordination.domain.tasks.events import EventType
from workers.runners import environment, program, usage_file
from workers.runners.agents.base import Transcript
from workers.runners.agents.failures import AgentFailure
from workers.runners.base import Control
from workers.runners.chat.loop import ChatLoop, Make, wait_for
from workers.runners.chat.providers import access, needs_of
from workers.runners.chat.servers import ToolServers
from workers.runners.login_help import LogIn
from workers.runners.output import clean_json, shorten
from workers.runners.process import Launcher
from workers.runners.process_watch import Interruption
from workers.runners.provider_environment import ProviderEnvironment, ProviderVariables
from workers.runners.shared import Shared


class ChatRunner:
    """Executes chats, all of a process on one loop."""

    def __init__(self, launcher: Launcher, providing: ProviderEnvironment) -> None:
        self._launcher = launcher
        self._providing = providing
        self._loop = ChatLoop()

    def run(self, claim: Claim, control: Control) -> AttemptEnd:
        """Hold the conversation to its end."""
        if (stopped := program.stopped_early(control)) is not None:
            return stopped
        try:
            call, secrets = self._checked(claim)
            control.secrets = secrets
            reached = access(call, secrets)
            tools = _Tools()
            conversation, told = _prepared(call, control, secrets, tools)
        except (Refused, NotFound) as refusal:
            return program.refused(refusal.sentence())
        began = time.monotonic()  # what the first chat of a process imports is not of its time
        if claim.workdir is not None and not program.can_be_entered(claim.workdir):
            return program.missing_folder(claim.workdir)
        with environment.Scratch(control.scratch, claim) as scratch:
            with ToolServers(self._launcher, call.tools, secrets) as servers:
                try:
                    servers.start(claim, control, env=call.env, scratch=scratch)
                except Refused as refusal:
                    return program.refused(refusal.sentence())
                except (OSError, ValueError) as error:
                    return program.cannot_start(error)
                spending = tools.spending = usage_file.following(scratch.costs, control)
                with_programs = any(server.command for server in servers.all)
                if not with_programs:
                    control.event(EventType.STARTED, {"model": call.chat})
                interruption = self._hold(
                    lambda moved: conversation.hold(reached, servers.all, moved),
                    claim,
                    control,
                    began=began,
                    glance=spending.look if with_programs else None,
                )
                servers.fast = interruption is not None and interruption.outcome is Outcome.LOST
            spent, warnings = spending.end()
        log = "\n".join(filter(None, [servers.log(), *(f"[chat] {one}" for one in told.remarks)]))
        if told.result is not None:
            told.result = shorten(secrets.hide(told.result), control.output_limit)
        result = _result(
            interruption,
            told,
            clean_json(conversation.value),
            limit=control.output_limit,
            usage=(*told.usage.values(), *spent),
            log=usage_file.with_warnings(log, warnings) or None,
        )
        if interruption is None and told.failure is not None:
            result = _failed(result, told.failure, call, secrets)
        return secrets.hide_in(result)

    def _checked(self, claim: Claim) -> tuple[ChatCall, ProviderVariables]:
        call = claim.job
        if not isinstance(call, ChatCall):
            raise Refused(f"A {call.kind} job is not a chat")
        of_tools = (name for server in call.tools if not isinstance(server, str) for name in server.get("secrets", ()))
        given = self._providing.given_to(
            call, program=call.provider, passes_on=needs_of(call).names, named=[*call.secrets, *of_tools]
        )
        if any("\0" in text for text in (*call.env, *call.env.values())):
            raise Refused("env holds a NUL character, which no environment can")
        return call, given

    def close(self) -> None:
        """End the loop."""
        self._loop.close()

    def _hold(
        self, make: Make, claim: Claim, control: Control, *, began: float, glance: Callable[[], None] | None
    ) -> Interruption | None:
        exchange = self._loop.start(make, control.progress)
        limits = {"timeout": claim.timeout, "stall_timeout": claim.stall_timeout}
        try:
            interruption = wait_for(exchange, control, began=began, glance=glance, **limits)
        finally:
            exchange.close()
        if exchange.error is not None and interruption is None:
            raise exchange.error
        return interruption


class _Tools:
    """What the programs of a chat's tools spend. No call of the model is made before that is settled, too."""

    spending: usage_file.UsageFile | None = None

    def paid(self, control: Control) -> bool:
        """Whether all that was spent so far is settled with the budgets."""
        if self.spending is not None:
            self.spending.look()
        return control.paid()


def _prepared(call: ChatCall, control: Control, secrets: ProviderVariables, tools: _Tools) -> tuple[Any, Transcript]:
    try:
        from workers.runners.chat.conversation import ChatConversation
        from workers.runners.chat.model_factory import import_provider
        from workers.runners.chat.output_schema import OutputSchema
    except ImportError as error:
        raise Refused(
            f"This worker cannot hold chats: {error.name or error} is not installed",
            hint=f"Run, on the worker's machine: {install_command('chat')}",
        ) from None
    import_provider(call)
    told = Transcript(control.event, hide=secrets.hide, metered=lambda: control.spent(told.usage.values()))
    form = OutputSchema(call.schema) if call.schema else None
    return ChatConversation(call, told, form, limit=control.output_limit, paid=lambda: tools.paid(control)), told


def _result(
    interruption: Interruption | None,
    told: Transcript,
    value: Any,
    *,
    limit: int,
    usage: tuple[Any, ...],
    log: str | None,
) -> AttemptEnd:
    """How the attempt ended."""
    outcome, error = Outcome.COMPLETED, None
    output = value if told.result is None else told.result
    if interruption is not None:
        outcome, error, output = interruption.outcome, interruption.error, told.result
    elif not told.ended:
        outcome, error = Outcome.FAILED, "the conversation ended without an answer"
    elif told.result is None and (size := len(json.dumps(output).encode())) > limit:
        outcome, output = Outcome.FAILED, None
        error = f"the answer has {size:,} bytes as JSON, more than the {limit:,} that are kept"
    return AttemptEnd(outcome, output=output, error=error, log=log, usage=usage)


def _failed(result: AttemptEnd, failure: AgentFailure, call: ChatCall, given: ProviderVariables) -> AttemptEnd:
    """*result* of a conversation that gave up, with whose limit or log-in it was about."""
    keys = needs_of(call).keys
    used = next((name for name in (*call.secrets, *keys) if given.values.get(name)), None)
    fields = failure.ended(account=call.account or (f"{call.provider} with {used}" if used else call.provider))
    if failure.error_class is ProviderErrorClass.LOG_IN:
        fields["error"] = f"{LogIn(keys).advice(call.chat, given, call.secrets)} (it said: {failure.sentence})"
    return replace(result, **fields)


def make_runner(shared: Shared) -> ChatRunner:
    """Return the runner of this kind."""
    return ChatRunner(shared.launcher, shared.providing)
