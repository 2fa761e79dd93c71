"""Runs a coding agent's command line with a prompt: output is its last answer, its story comes while it works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog

from coordination.base.errors import NotFound, Refused
from coordination.domain.jobs import CUSTOM, AgentCall
from coordination.domain.jobs.changed_files import ChangeSummary
from coordination.domain.jobs.output import Stream
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Usage
from coordination.domain.tasks.events import EventType
from workers.runners import environment, program, usage_file
from workers.runners.agents.adapters import ADAPTERS
from workers.runners.agents.base import Adapter, StartCommand, Transcript
from workers.runners.agents.conversation import AgentConversation
from workers.runners.agents.ends import account_of, end_of
from workers.runners.agents.lines import JsonLines
from workers.runners.base import Control
from workers.runners.output import Capture, clean_text, decode, shorten, without_line_break
from workers.runners.process import Launcher
from workers.runners.provider_environment import ProviderEnvironment, ProviderVariables
from workers.runners.shared import Shared

log = structlog.get_logger()

_LONGEST_COMPLAINT = 8_000


class AgentRunner:
    """Executes agents' jobs."""

    def __init__(self, launcher: Launcher, providing: ProviderEnvironment) -> None:
        self._launcher = launcher
        self._providing = providing

    def run(self, claim: Claim, control: Control) -> AttemptEnd:
        """Run the agent to its end, in a session of its own."""
        if (stopped := program.stopped_early(control)) is not None:
            return stopped
        try:
            call, adapter, given = self._checked(claim)
            control.secrets = given
        except (Refused, NotFound) as refusal:
            return program.refused(refusal.sentence())
        with environment.Scratch(control.scratch, claim) as scratch:
            folder = claim.workdir or scratch.make_folder()
            if not program.can_be_entered(folder):
                return program.missing_folder(folder)
            if call.tools:
                file = scratch.write_servers(control.line)
                servers = [part.replace("{file}", file) for part in adapter.takes_servers]
                call = replace(call, args=[*servers, *call.args])
            conversation = AgentConversation(claim, call, adapter)
            start = adapter.start(call, conversation.session)
            variables = environment.inherited() | given.values | dict(start.env) | dict(call.env)
            variables |= environment.of_attempt(claim, scratch)
            variables |= environment.of_line(control.line, variables["PATH"])
            variables["COORD_INPUT"] = scratch.write_input(claim)
            name = start.arguments[0]
            if (problem := program.program_problem(name, folder=folder, path=variables["PATH"])) is not None:
                return program.refused(problem)
            advice = adapter.log_in.advice(call.agent, given, call.secrets)
            reader = _OutputReader(adapter, call, control, conversation, advice=advice)
            return self._execute(start, claim, control, reader, variables=variables, folder=folder, scratch=scratch)

    def _execute(
        self,
        start: StartCommand,
        claim: Claim,
        control: Control,
        reader: _OutputReader,
        *,
        variables: Mapping[str, str],
        folder: str,
        scratch: environment.Scratch,
    ) -> AttemptEnd:
        with scratch.reading(start.stdin) as stdin:
            try:
                ran = program.run_program(
                    self._launcher,
                    start.arguments,
                    claim,
                    control,
                    variables=variables,
                    folder=folder,
                    feed=reader.feed,
                    show=reader.complain,
                    stdin=stdin,
                    write=control.places(folder),
                    glance=usage_file.UsageFile(scratch.costs, reader.reports).look,
                    done=reader.is_done,
                )
            except (OSError, ValueError) as error:
                return program.cannot_start(error, folder=folder)
        reader.close()
        return reader.result(ran, *usage_file.read(scratch.costs))

    def _checked(self, claim: Claim) -> tuple[AgentCall, Adapter, ProviderVariables]:
        call = claim.job
        if not isinstance(call, AgentCall):
            raise Refused(f"A {call.kind} job is not for an agent")
        adapter = ADAPTERS.get(call.agent)
        if adapter is None:
            raise Refused(f"No runner starts the agent {call.agent}", hint=f"It may be: {', '.join(ADAPTERS)}")
        if call.tools and not adapter.takes_servers:
            raise Refused(f"{call.agent} finds MCP servers in its own configuration", hint="Name coord mcp there")
        given = self._providing.given_to(
            call,
            program=call.agent,
            passes_on=adapter.passes_on,
            named=call.secrets,
            enough=adapter.log_in.enough,
        )
        return call, adapter, given


class _OutputReader:
    """Takes an agent's output as it comes, cuts it into lines, and says what came of it."""

    def __init__(
        self, adapter: Adapter, call: AgentCall, control: Control, conversation: AgentConversation, *, advice: str
    ) -> None:
        self._adapter = adapter
        self._advice = advice
        self._call = call
        self._control = control
        self._conversation = conversation
        self._hide = control.secrets.hide
        self._said = Capture(control.output_limit)
        self._words = control.secrets.hiding(self._said.feed)  # before it is shortened
        self._complaints = bytearray()
        self._shape = call.reads.get("format", "text") if call.agent == CUSTOM else "jsonl"
        self._session: str | None = None
        self._reported: Sequence[Usage] = ()
        self.told = Transcript(self._tell, hide=self._hide, show=self._show, metered=self._spent)
        self._lines = JsonLines(self._read, self._print, self.told.remarks.append, whole=self._shape == "json")

    def feed(self, data: bytes) -> None:
        """What came next on stdout."""
        self._words(data)
        self._complaints.clear()
        if self._shape == "text":
            self._control.printed(Stream.OUT, data)
        else:
            self._lines.feed(data)

    def complain(self, data: bytes) -> None:
        """What came next on stderr."""
        self._complaints += data[-_LONGEST_COMPLAINT:]
        del self._complaints[:-_LONGEST_COMPLAINT]
        self._control.printed(Stream.ERR, data)

    def is_done(self) -> bool:
        """Whether it has said that it was done, so that its program should exit. Nobody knows of a custom one."""
        return self.told.ended and self._call.agent != CUSTOM

    def reports(self, used: Sequence[Usage]) -> None:
        """What stands in the usage file so far."""
        self._reported = used
        self._spent()

    def close(self) -> None:
        """Nothing more comes."""
        self._words.close()
        if self._shape == "text":
            self.told.result, self.told.ended = without_line_break(self._said.text()), True
        else:
            self._lines.close()
            self.told.cut_off()
            if self.told.result is not None:
                self.told.result = shorten(self._hide(self.told.result), self._control.output_limit)
        for remark in self.told.remarks:
            self._control.printed(Stream.ERR, f"[agent] {remark}\n".encode())

    def result(self, ran: program.ProgramResult, reported: tuple[Usage, ...], warnings: tuple[str, ...]) -> AttemptEnd:
        """How the attempt ended, by its process and by what the agent said."""
        told = self.told
        account = account_of(self._adapter, self._call)
        end = end_of(
            ran,
            told,
            self._call,
            advice=self._advice,
            account=account,
            printed=self._said.text(),
            complaints=self._hide(clean_text(decode(bytes(self._complaints)))),
        )
        remarks = [*(f"[agent] {remark}" for remark in (*told.remarks, *end.remarks))]
        text = "\n".join([*filter(None, [ran.log.rstrip("\n")]), *remarks])
        result = AttemptEnd(
            **end.fields,
            output=told.result,
            exit_code=ran.exit_code,
            log=usage_file.with_warnings(text, warnings) or text or None,
            usage=(*self._conversation.new(told.usage.values(), told.session), *reported),
            effect=ChangeSummary(refused=len(told.refused)) if told.refused else None,
        )
        return self._control.secrets.hide_in(self._conversation.end(result, told.session, told.usage.values()))

    def _read(self, line: Mapping[str, Any]) -> None:
        try:
            self._adapter.read(line, self.told, self._call)
        except Exception:
            # A bulkhead: another version of the agent may say it otherwise, and that must not end the job.
            log.exception("a line of an agent could not be understood", agent=self._call.agent)
            self.told.remarks.append("a line could not be understood; the worker's log says more")
        if self.told.session not in (None, self._session):
            self._session = self.told.session
            self._control.event(EventType.PROGRESS, {"session": self._session})
            if self._session is not None and self._conversation.resumes:
                self._control.remember(self._conversation.note(self._session))

    def _print(self, line: bytes) -> None:
        self._show(clean_text(decode(line)))

    def _spent(self) -> None:
        told = self._conversation.new(self.told.usage.values(), self.told.session)
        self._control.spent((*told, *self._reported))

    def _tell(self, type_: EventType, payload: dict[str, Any]) -> None:
        self._control.event(type_, payload)

    def _show(self, text: str) -> None:
        self._control.printed(Stream.OUT, f"{text}\n".encode(errors="replace"))


def make_runner(shared: Shared) -> AgentRunner:
    """Return the runner of this kind."""
    return AgentRunner(shared.launcher, shared.providing)
