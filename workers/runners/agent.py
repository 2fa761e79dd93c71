"""Runs a coding agent's command line with a prompt. The output is its last answer; events are logged while it works."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import structlog

from coordination.base.errors import NotFound, Refused
from coordination.base.host import host
from coordination.domain.jobs import CUSTOM, AgentCall
from coordination.domain.jobs.changed_files import ChangeSummary
from coordination.domain.jobs.output import Stream
from coordination.domain.jobs.provider_error_table import ProviderErrorClass
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome, Usage
from coordination.domain.tasks.events import EventType
from workers.runners import environment, program, usage_file
from workers.runners.agents.adapters import ADAPTERS
from workers.runners.agents.base import Adapter, Transcript
from workers.runners.agents.conversation import AgentConversation
from workers.runners.agents.failures import AgentFailure, classify_failure
from workers.runners.agents.lines import JsonLines
from workers.runners.base import Control
from workers.runners.output import Capture, clean_text, decode, last_line, shorten, without_line_break
from workers.runners.program import Interruption
from workers.runners.provider_environment import ProviderVariables
from workers.runners.shared import RunnerResources

log = structlog.get_logger()

_LONGEST_COMPLAINT = 8_000
_ERROR_LIMIT = 300
_LAST_LINES = 20
_HAD_ERROR = 1  # exit status of programs that met an error, even if they recovered
_CLASSES_OF_LOG = (ProviderErrorClass.LIMIT, ProviderErrorClass.LOG_IN)
_CLASSES_OF_ERROR = (ProviderErrorClass.TRANSIENT, *_CLASSES_OF_LOG)


class AgentRunner:
    """Executes jobs of coding agents."""

    def __init__(self, resources: RunnerResources) -> None:
        self._resources = resources

    def run(self, claim: Claim, control: Control) -> AttemptEnd:
        """Run the agent to its end, in a session of its own."""
        if (stopped := program.end_if_stopped(control)) is not None:
            return stopped
        try:
            call, adapter, provider_variables = self._check(claim)
        except (Refused, NotFound) as refusal:
            return program.refusal_end(refusal.sentence())
        control.secrets = provider_variables
        with environment.Scratch(control.scratch, claim) as scratch:
            folder = claim.workdir or scratch.make_folder()
            if not program.can_be_entered(folder):
                return program.refusal_end(program.folder_problem(folder))
            if call.tools:
                file = scratch.write_servers(control.report_address)
                servers = [part.replace("{file}", file) for part in adapter.takes_servers]
                call = replace(call, args=[*servers, *call.args])
            conversation = AgentConversation(claim, call, adapter)
            start = adapter.start(call, conversation.session)
            variables = environment.base_variables() | provider_variables.values | dict(start.env) | dict(call.env)
            variables |= environment.attempt_variables(claim, scratch)
            variables |= environment.report_variables(control.report_address, variables["PATH"])
            variables["COORD_INPUT"] = scratch.write_input(claim)
            name = start.arguments[0]
            if (problem := program.program_problem(name, folder=folder, path=variables["PATH"])) is not None:
                return program.refusal_end(problem)
            reader = _OutputReader(adapter, call, control, conversation, provider_variables)
            with scratch.reading(start.stdin) as stdin:
                try:
                    ran = program.run_program(
                        self._resources.launcher,
                        start.arguments,
                        claim,
                        control,
                        variables=variables,
                        folder=folder,
                        feed=reader.feed,
                        show=reader.complain,
                        stdin=stdin,
                        write=control.writable_paths(folder),
                        poll=usage_file.UsageFile(scratch.costs, reader.add_reports).poll,
                        done=reader.is_done,
                    )
                except (OSError, ValueError) as error:
                    return program.cannot_start(error, folder=folder)
            reader.close()
            return reader.result(ran, *usage_file.read_usage(scratch.costs))

    def _check(self, claim: Claim) -> tuple[AgentCall, Adapter, ProviderVariables]:
        call = cast("AgentCall", claim.job)
        adapter = ADAPTERS.get(call.agent)
        if adapter is None:
            raise Refused(f"No runner starts the agent {call.agent}", hint=f"It may be: {', '.join(ADAPTERS)}")
        if call.tools and not adapter.takes_servers:
            raise Refused(
                f"{call.agent} reads MCP servers only from its own configuration", hint="Name coord mcp there"
            )
        variables = self._resources.provider_environment.variables_for(
            call, program=call.agent, passes_on=adapter.passes_on, named=call.secrets, enough=adapter.login.enough
        )
        return call, adapter, variables


class _OutputReader:
    """Reads an agent's output while it arrives, and makes the end of its attempt."""

    def __init__(
        self,
        adapter: Adapter,
        call: AgentCall,
        control: Control,
        conversation: AgentConversation,
        provider_variables: ProviderVariables,
    ) -> None:
        self._adapter = adapter
        self._call = call
        self._control = control
        self._conversation = conversation
        self._advice = adapter.login.advice(call.agent, provider_variables, call.secrets)
        self._secrets = provider_variables
        self._hide = provider_variables.hide
        self._stdout = Capture(control.output_limit)
        self._masked_stdout = provider_variables.mask_stream(self._stdout.feed)  # masked before it is shortened
        self._complaints = bytearray()
        self._format = call.reads.get("format", "text") if call.agent == CUSTOM else "jsonl"
        self._session: str | None = None
        self._reported: Sequence[Usage] = ()
        self.transcript = Transcript(control.event, hide=self._hide, show=self._show, on_usage=self._record_usage)
        self._lines = JsonLines(self._read, self._print, self.transcript.remarks.append, whole=self._format == "json")

    def feed(self, data: bytes) -> None:
        """Take the next output on stdout."""
        self._masked_stdout(data)
        self._complaints.clear()
        if self._format == "text":
            self._control.show_output(Stream.OUT, data)
        else:
            self._lines.feed(data)

    def complain(self, data: bytes) -> None:
        """Take the next output on stderr."""
        self._complaints += data[-_LONGEST_COMPLAINT:]
        del self._complaints[:-_LONGEST_COMPLAINT]
        self._control.show_output(Stream.ERR, data)

    def is_done(self) -> bool:
        """Return whether the agent reported its end, so that its program should exit. Unknown for custom agents."""
        return self.transcript.ended and self._call.agent != CUSTOM

    def add_reports(self, usage: Sequence[Usage]) -> None:
        """Set the content of the usage file so far."""
        self._reported = usage
        self._record_usage()

    def close(self) -> None:
        """End the output."""
        self._masked_stdout.close()
        if self._format == "text":
            self.transcript.result, self.transcript.ended = without_line_break(self._stdout.text()), True
        else:
            self._lines.close()
            self.transcript.cut_off()
            if self.transcript.result is not None:
                self.transcript.result = shorten(self._hide(self.transcript.result), self._control.output_limit)
        for remark in self.transcript.remarks:
            self._control.show_output(Stream.ERR, f"[agent] {remark}\n".encode())

    def result(self, ran: program.ProgramResult, reported: tuple[Usage, ...], warnings: tuple[str, ...]) -> AttemptEnd:
        """Return how the attempt ended."""
        transcript = self.transcript
        fields, notes = agent_end(
            ran,
            transcript,
            self._call,
            advice=self._advice,
            account=_limited_account(self._adapter, self._call),
            printed=self._stdout.text(),
            complaints=self._hide(clean_text(decode(bytes(self._complaints)))),
        )
        remarks = [f"[agent] {remark}" for remark in (*transcript.remarks, *notes)]
        text = "\n".join([*filter(None, [ran.log.rstrip("\n")]), *remarks])
        result = AttemptEnd(
            **fields,
            output=transcript.result,
            exit_code=ran.exit_code,
            log=usage_file.with_warnings(text, warnings) or text or None,
            usage=(*self._conversation.new_usage(transcript.usage.values(), transcript.session), *reported),
            effect=ChangeSummary(refused=len(transcript.refused)) if transcript.refused else None,
        )
        return self._secrets.hide_in(self._conversation.end(result, transcript.session, transcript.usage.values()))

    def _read(self, line: Mapping[str, Any]) -> None:
        try:
            self._adapter.read(line, self.transcript, self._call)
        except Exception:
            # Another version of the agent may print it differently, which must not end the job.
            log.exception("a line of an agent could not be read", agent=self._call.agent)
            self.transcript.remarks.append("a line could not be read; the worker's log has the reason")
        if self.transcript.session not in (None, self._session):
            self._session = self.transcript.session
            self._control.event(EventType.PROGRESS, {"session": self._session})
            if self._session is not None and self._conversation.resumes:
                self._control.remember(self._conversation.note(self._session))

    def _print(self, line: bytes) -> None:
        self._show(clean_text(decode(line)))

    def _record_usage(self) -> None:
        usage = self._conversation.new_usage(self.transcript.usage.values(), self.transcript.session)
        self._control.record_usage((*usage, *self._reported))

    def _show(self, text: str) -> None:
        self._control.show_output(Stream.OUT, f"{text}\n".encode(errors="replace"))


def agent_end(
    ran: program.ProgramResult,
    transcript: Transcript,
    call: AgentCall,
    *,
    advice: str,
    account: str,
    printed: str,
    complaints: str = "",
) -> tuple[dict[str, Any], list[str]]:
    """Return fields of the AttemptEnd, and notes for people below the log.

    *advice*: for an agent that is not logged in; *account*: the owner of a limit. *printed*: the program's stdout;
    *complaints*: its stderr since the last output on stdout.
    """
    remarks = []
    if ran.interruption is not None:
        if ran.interruption.outcome is not Outcome.COMPLETED:
            return _interrupted(ran.interruption, transcript, complaints, account), []
        remarks = [ran.interruption.error]  # it had reported its end, but did not exit
    if transcript.failure is not None:
        return _failed(transcript.failure, advice, account), remarks
    if remarks:
        return {"outcome": Outcome.COMPLETED}, remarks
    message = last_line(ran.log or printed, _ERROR_LIMIT)
    outcome, error = program.judge_exit(ran.exit_code, message=message)
    if outcome is Outcome.FAILED and ran.exit_code == _HAD_ERROR and transcript.is_done and transcript.overcome:
        return {"outcome": Outcome.COMPLETED}, ["exit status 1 ignored: the agent reported success after an error"]
    if outcome is Outcome.COMPLETED and not transcript.ended:
        outcome, error = Outcome.FAILED, f"{call.agent} ended without reporting that it was done"
    is_unexplained = outcome is Outcome.FAILED and not transcript.ended
    if is_unexplained and (failure := _classify_output(ran, error or "", printed)) is not None:
        return _failed(failure, advice, account), []
    return {"outcome": outcome, "error": error}, []


def _limited_account(adapter: Adapter, call: AgentCall) -> str:
    """Return the owner of a limit: the account, or the program with the variable that it is logged in with."""
    if call.account is not None:
        return call.account
    variables = {**os.environ, **call.env}
    used = next((name for name in (*call.secrets, *adapter.login.variables) if variables.get(name)), None)
    return f"{call.agent} with {used}" if used else f"{call.agent} as it is logged in on {host()}"


def _interrupted(interruption: Interruption, transcript: Transcript, complaints: str, account: str) -> dict[str, Any]:
    """Return the fields of an interrupted attempt, deferred if its program kept retrying an unavailable provider."""
    if interruption.outcome is Outcome.TIMED_OUT and not transcript.ended:
        failure = transcript.unresolved or classify_failure(complaints)
        if failure.error_class.waits:
            sentence = f"{interruption.error}: its program kept retrying an unavailable provider ({failure.sentence})"
            return {**failure.end_fields(account=account), "error": sentence}
    return {"outcome": interruption.outcome, "error": interruption.error}


def _failed(failure: AgentFailure, advice: str, account: str) -> dict[str, Any]:
    fields = failure.end_fields(account=account)
    if failure.error_class is ProviderErrorClass.LOG_IN:
        fields["error"] = f"{advice} (it said: {failure.sentence})"
    return fields


def _classify_output(ran: program.ProgramResult, error: str, printed: str) -> AgentFailure | None:
    """Classify the last output of an agent that reported no end: login errors come as text or on stderr."""
    if ran.exit_code is not None and ran.exit_code < 0:
        return None
    last = "\n".join([line for line in (ran.log or printed).splitlines() if line.strip()][-_LAST_LINES:])
    for words, classes in ((error, _CLASSES_OF_ERROR), (clean_text(last) or error, _CLASSES_OF_LOG)):
        failure = classify_failure(error, words=words)
        if failure.error_class in classes:
            return failure
    return None
