"""Runs chats with models: the output is the answer; events are logged meanwhile. Imports libraries on first use."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

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
from workers.runners.chat.loop import ChatLoop, MakeConversation, wait_for
from workers.runners.chat.providers import find_access, variable_names_of
from workers.runners.chat.servers import ToolServers
from workers.runners.login_help import Login
from workers.runners.output import clean_json, shorten
from workers.runners.program import Interruption
from workers.runners.provider_environment import ProviderVariables
from workers.runners.shared import RunnerResources


class ChatRunner:
    """Executes chats; all conversations of a process share one loop."""

    def __init__(self, resources: RunnerResources) -> None:
        self._resources = resources
        self._loop = ChatLoop()

    def run(self, claim: Claim, control: Control) -> AttemptEnd:
        """Run the conversation to its end."""
        if (stopped := program.end_if_stopped(control)) is not None:
            return stopped
        try:
            call, secrets = self._check(claim)
            control.secrets = secrets
            access = find_access(call, secrets)
            tools = _ToolUsage()
            conversation, transcript = _make_conversation(call, control, secrets, tools)
        except (Refused, NotFound) as refusal:
            return program.refusal_end(refusal.sentence())
        began = time.monotonic()  # without the imports of the first chat of a process
        if claim.workdir is not None and not program.can_be_entered(claim.workdir):
            return program.refusal_end(program.folder_problem(claim.workdir))
        with environment.Scratch(control.scratch, claim) as scratch:
            with ToolServers(self._resources.launcher, call.tools, secrets) as servers:
                try:
                    servers.start(claim, control, env=call.env, scratch=scratch)
                except Refused as refusal:
                    return program.refusal_end(refusal.sentence())
                except (OSError, ValueError) as error:
                    return program.cannot_start(error)
                tool_usage = tools.file = usage_file.side_usage_file(scratch.costs, control)
                with_programs = any(server.command for server in servers.all)
                if not with_programs:
                    control.event(EventType.STARTED, {"model": call.chat})
                interruption = self._run(
                    lambda note_progress: conversation.run(access, servers.all, note_progress),
                    claim,
                    control,
                    began=began,
                    poll=tool_usage.poll if with_programs else None,
                )
                servers.ends_at_once = interruption is not None and interruption.outcome is Outcome.LOST
            usage, warnings = tool_usage.end()
        log = "\n".join(filter(None, [servers.log(), *(f"[chat] {remark}" for remark in transcript.remarks)]))
        if transcript.result is not None:
            transcript.result = shorten(secrets.hide(transcript.result), control.output_limit)
        result = _result(
            interruption,
            transcript,
            clean_json(conversation.value),
            limit=control.output_limit,
            usage=(*transcript.usage.values(), *usage),
            log=usage_file.with_warnings(log, warnings) or None,
        )
        if interruption is None and transcript.failure is not None:
            result = _with_failure(result, transcript.failure, call, secrets)
        return secrets.hide_in(result)

    def _check(self, claim: Claim) -> tuple[ChatCall, ProviderVariables]:
        call = cast("ChatCall", claim.job)
        servers = [server for server in call.tools if not isinstance(server, str)]
        named = [*call.secrets, *(name for server in servers for name in server.get("secrets", ()))]
        variables = self._resources.provider_environment.variables_for(
            call, program=call.provider, passes_on=variable_names_of(call).names, named=named
        )
        if any("\0" in text for text in (*call.env, *call.env.values())):
            raise Refused("env has a NUL character, which environments cannot hold")
        return call, variables

    def close(self) -> None:
        """Close the loop."""
        self._loop.close()

    def _run(
        self, make: MakeConversation, claim: Claim, control: Control, *, began: float, poll: Callable[[], None] | None
    ) -> Interruption | None:
        conversation = self._loop.start(make, control.progress)
        try:
            interruption = wait_for(conversation, claim, control, began=began, poll=poll)
        finally:
            conversation.close()
        if conversation.error is not None and interruption is None:
            raise conversation.error
        return interruption


class _ToolUsage:
    """The usage of a chat's tool servers, which must be charged before the next call of the model, too."""

    file: usage_file.UsageFile | None = None

    def is_settled(self, control: Control) -> bool:
        """Return whether all usage so far is charged to the budgets."""
        if self.file is not None:
            self.file.poll()
        return control.is_settled()


def _make_conversation(
    call: ChatCall, control: Control, secrets: ProviderVariables, tools: _ToolUsage
) -> tuple[Any, Transcript]:
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
    transcript = Transcript(
        control.event, hide=secrets.hide, on_usage=lambda: control.record_usage(transcript.usage.values())
    )
    schema = OutputSchema(call.schema) if call.schema else None
    is_settled = partial(tools.is_settled, control)
    return ChatConversation(call, transcript, schema, limit=control.output_limit, is_settled=is_settled), transcript


def _result(
    interruption: Interruption | None,
    transcript: Transcript,
    value: Any,
    *,
    limit: int,
    usage: tuple[Any, ...],
    log: str | None,
) -> AttemptEnd:
    """Return how the attempt ended."""
    outcome, error = Outcome.COMPLETED, None
    output = value if transcript.result is None else transcript.result
    if interruption is not None:
        outcome, error, output = interruption.outcome, interruption.error, transcript.result
    elif not transcript.ended:
        outcome, error = Outcome.FAILED, "the conversation ended without an answer"
    elif transcript.result is None and (size := len(json.dumps(output).encode())) > limit:
        outcome, output = Outcome.FAILED, None
        error = f"the answer has {size:,} bytes as JSON, more than the {limit:,} that are kept"
    return AttemptEnd(outcome, output=output, error=error, log=log, usage=usage)


def _with_failure(
    result: AttemptEnd, failure: AgentFailure, call: ChatCall, variables: ProviderVariables
) -> AttemptEnd:
    """Return *result* with the failure of the conversation, and the account of its limit or login."""
    keys = variable_names_of(call).keys
    used = next((name for name in (*call.secrets, *keys) if variables.values.get(name)), None)
    fields = failure.end_fields(account=call.account or (f"{call.provider} with {used}" if used else call.provider))
    if failure.error_class is ProviderErrorClass.LOG_IN:
        fields["error"] = f"{Login(keys).advice(call.chat, variables, call.secrets)} (it said: {failure.sentence})"
    return replace(result, **fields)
