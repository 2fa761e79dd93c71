"""The protocol of adapters, which start an agent's program and read its output, and the Transcript that they fill.

Agents print JSON lines while they work. An adapter reads one line at a time into a Transcript. It starts no process and
waits for none, so that it can also read a file.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from coordination.base.errors import Refused
from coordination.base.money import usd
from coordination.domain.jobs import AgentCall
from coordination.domain.jobs.provider_errors import ProviderLimit
from coordination.domain.tasks.attempts import Usage
from coordination.domain.tasks.events import EventType
from workers.runners.agents.failures import LONGEST_SENTENCE, AgentFailure, classify_failure, with_limit
from workers.runners.login_help import Login
from workers.runners.output import clean_text, decode, one_line

LONGEST_TEXT = 2_000
"""Characters of a text, an input or an output in an event."""

MOST_EVENTS = 2_000
_LARGEST_COUNT = 10**12  # far beyond any model, and millions of such values can be summed
_PRECISION = Decimal("1e-12")


@dataclass(frozen=True, slots=True)
class StartCommand:
    """How to start an agent: its *arguments*, the text on *stdin*, and extra variables."""

    arguments: Sequence[str]
    stdin: str
    env: Mapping[str, str] = field(default_factory=dict)


class Transcript:
    """The content of an agent's output so far.

    *add_event* writes to the task's event log, *show* to the live output; *on_usage* is called when ``usage`` changes.

    ``result``: the last answer. ``ended``: the agent reported its end, successful or not. ``is_done``: it reported
    success, and nothing followed. ``overcome``: an error did not end the work, or came after its end. ``remarks``:
    notes for people below the log. ``synthetic``: the last message, if it is of the program and not of the model.
    ``limit``: the limit that the provider reports as reached. ``refused``: ids of tool calls that were not permitted.
    """

    def __init__(
        self,
        add_event: Callable[[EventType, dict[str, Any]], None],
        *,
        hide: Callable[[str], str] = str,
        show: Callable[[str], None] = lambda _line: None,
        on_usage: Callable[[], None] = lambda: None,
    ) -> None:
        self._add_event = add_event
        self._hide = hide
        self._show = show
        self._on_usage = on_usage
        self._events = 0
        self.result: str | None = None
        self.session: str | None = None
        self.model: str | None = None
        self.failure: AgentFailure | None = None
        self.ended = False
        self.usage: dict[str, Usage] = {}
        self.remarks: list[str] = []
        self.synthetic: str | None = None
        self.synthetic_type: object = None  # of its error
        self.limit: ProviderLimit | None = None
        self.refused: set[str] = set()
        self.overcome = False
        self.is_done = False
        self._last_error: AgentFailure | None = None  # the agent may recover from it

    def add_text(self, text: str) -> None:
        """Add a text of the agent."""
        self.is_done = False
        if text.strip():
            self._event(EventType.PROGRESS, {"text": self._short(text)})
            self._show(self._hide(clean_text(text)).rstrip("\n"))

    def add_tool_call(self, tool: object, arguments: object, *, id_: object = None) -> None:
        """Add a call of a tool."""
        self.is_done, self.synthetic = False, None
        name, short_input = self._short(tool), self._short(arguments)
        self._event(EventType.TOOL_CALL, _without_none(tool=name, input=short_input, id=self._short(id_)))
        self._show(f"\N{RIGHTWARDS ARROW} {name or 'a tool'} {short_input or ''}".rstrip())

    def add_tool_result(self, output: object, *, id_: object = None, failed: bool = False) -> None:
        """Add the result of a tool."""
        text = self._short(output)
        self._event(
            EventType.TOOL_RESULT,
            _without_none(output=text, id=self._short(id_)) | ({"failed": True} if failed else {}),
        )
        mark = "\N{MULTIPLICATION SIGN}" if failed else "\N{LEFTWARDS ARROW}"
        self._show(f"{mark} {text or ''}".strip().replace("\n", "\n  "))

    def set_usage(self, key: str, usage: Usage | None) -> None:
        """Set the usage of model calls, which replaces earlier usage with the same *key*."""
        if usage is None:
            self.usage.pop(key, None)
        else:
            self.usage[key] = usage
        self._on_usage()

    def add_refusal(self, id_: object) -> None:
        """Add a tool call that was not permitted, with or without an id."""
        self.refused.add(str(id_ or f"number {len(self.refused)}"))

    def finish(self) -> None:
        """Note that the agent reported success, which clears earlier errors."""
        self.overcome = self.overcome or self.failure is not None or self._last_error is not None
        self.ended = self.is_done = True
        self.failure = self._last_error = None

    def recover(self) -> None:
        """Note that the provider answers again."""
        self.overcome = self.overcome or self._last_error is not None
        self._last_error = self.synthetic = None

    def go_on(self) -> None:
        """Note that the agent continues, so an earlier error or end was that of a step."""
        if self.failure is not None:
            self._last_error, self.failure = self.failure, None
        self.ended = self.is_done = False

    def note_error(self, sentence: object, **details: Any) -> None:
        """Note an error that fails the attempt only if nothing follows. *details*: as for ``fail``."""
        if self.is_done:
            self._remark_after_end(str(sentence or ""))
        else:
            self._last_error = self._failure(sentence, **details)

    def fail(self, sentence: object, **details: Any) -> None:
        """Note that the agent gave up. *details*: further arguments of ``classify_failure``; values of a wrong type
        are ignored. Directly after a reported success, the error is only a remark."""
        if self.is_done:
            self._remark_after_end(str(sentence or ""))
        else:
            self.ended, self.failure = True, self._failure(sentence, **details)

    @property
    def unresolved(self) -> AgentFailure | None:
        """Return the last error if nothing followed and the agent has not ended."""
        return None if self.ended else self._last_error

    def cut_off(self) -> None:
        """End the output: without a reported end, the last error or message of the program is the failure."""
        if not self.ended and self.failure is None:
            self.failure = self._last_error
            if self.failure is None and self.synthetic:
                self.failure = self._failure(self.synthetic, type_=self.synthetic_type)

    def _failure(
        self, sentence: object, *, status: object = None, type_: object = None, words: object = None, **details: Any
    ) -> AgentFailure:
        failure = classify_failure(
            self._hide(str(sentence or "it gave no reason")),
            status=status if isinstance(status, int) and not isinstance(status, bool) else None,
            type_=type_ if isinstance(type_, str) else None,
            words=None if words is None else str(words),
            **details,
        )
        return with_limit(failure, self.limit)

    def _remark_after_end(self, sentence: str) -> None:
        self.overcome = True
        self.remarks.append(f"after it was done: {one_line(self._hide(clean_text(sentence)), LONGEST_SENTENCE)}")

    def _event(self, type_: EventType, payload: dict[str, Any]) -> None:
        self._events += 1
        if self._events < MOST_EVENTS:
            self._add_event(type_, payload)
        elif self._events == MOST_EVENTS:
            self._add_event(EventType.PROGRESS, {"text": f"… more than {MOST_EVENTS:,} events: the rest is not shown"})

    def _short(self, value: object) -> str | None:
        if value is None:
            return None
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        text = self._hide(clean_text(text))
        return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}… ({len(text):,} characters)"


class Adapter(ABC):
    """Starts one agent's program and reads its output.

    ``name``: of the agent in jobs, and of its program by default. ``passes_on``: the worker's variables that it needs.
    ``login``: how it is logged in, for advice when it is not. ``resumes``: whether it can resume a conversation by its
    session id, without support by the job. ``counts_anew``: whether the usage of a resumed conversation is only that of
    its new part. ``takes_servers``: arguments that set the MCP servers to those of ``{file}`` and permit ours; empty:
    not supported.
    """

    name: str
    passes_on: Sequence[str] = ()
    login = Login()
    resumes: bool = True
    counts_anew: bool = True
    takes_servers: Sequence[str] = ()

    @abstractmethod
    def start(self, call: AgentCall, session: str | None = None) -> StartCommand:
        """Return how to start the job, or with *session*, how to resume that conversation."""

    @abstractmethod
    def read(self, line: Mapping[str, Any], transcript: Transcript, call: AgentCall) -> None:
        """Read one JSON object of the output into *transcript*."""


def parse_json_line(line: bytes) -> dict[str, Any] | None:
    """Parse a line as an object with exact amounts; return None for other output."""
    try:
        value = json.loads(decode(line), parse_float=Decimal, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def usage_record(
    model: object,
    *,
    input_tokens: object = 0,
    output_tokens: object = 0,
    cached_tokens: object = 0,
    cost: object = None,
    session: str | None = None,
    **extra: object,
) -> Usage | None:
    """Return a usage record, or None for no usage. *input_tokens* includes *cached_tokens*.

    *cost*: dollars as reported; an invalid amount is unknown, not zero.
    """
    counts = [_count(value) for value in (input_tokens, output_tokens, cached_tokens)]
    if not any(counts) and not cost:
        return None
    extra_counts = {name: number for name, value in extra.items() if (number := _count(value))}
    return Usage(
        model=clean_text(str(model or "unknown"))[:200],
        input_tokens=counts[0],
        output_tokens=counts[1],
        cached_input_tokens=min(counts[2], counts[0]),
        total_tokens=counts[0] + counts[1],
        cost_usd=_amount(cost),
        session_id=session,
        extra=extra_counts,
    )


def sum_counts(*values: object) -> int:
    """Return the sum of counts; invalid counts are zero."""
    return sum(map(_count, values))


def value_at(value: object, *path: str) -> Any:
    """Return the value at *path* in nested mappings, or None."""
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def join_texts(value: object) -> str:
    """Return the text of a message's content, which is a text or a list of parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(part["text"] for part in value if isinstance(value_at(part, "text"), str))
    return ""


def _without_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not 0 <= value <= _LARGEST_COUNT:
        return 0
    return int(value)


def _amount(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    try:
        amount = usd(repr(value) if isinstance(value, float) else value)
    except Refused:
        return None
    if amount < 0:
        return None
    # A number may be a sum of floats, such as 0.009899999999999999; a text is exact.
    is_inexact = not isinstance(value, str) and amount != (rounded := amount.quantize(_PRECISION))
    return rounded if is_inexact else amount
