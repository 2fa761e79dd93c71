"""What an adapter knows of its agent: how it is started, and what a line of its output says.

Every agent prints JSON lines while it works. An adapter reads one at a time and writes into a Transcript what it
learns; it starts nothing and waits for nothing, so a stream from a file is as good as a process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from coordination.base.errors import Refused
from coordination.base.money import usd
from coordination.domain.jobs import AgentCall
from coordination.domain.jobs.provider_errors import ProviderLimit
from coordination.domain.tasks.attempts import Usage
from coordination.domain.tasks.events import EventType
from workers.runners.agents.failures import LONGEST_SENTENCE, AgentFailure, failure_of_words, with_limit
from workers.runners.login_help import LogIn
from workers.runners.output import clean_text, decode, one_line

LONGEST_TEXT = 2_000
"""Characters of a text, an input or an output that an event keeps."""

MOST_EVENTS = 2_000
_LARGEST_COUNT = 10**12  # far beyond any model, and millions of it can be added up
_FINEST = Decimal("1e-12")


@dataclass(frozen=True, slots=True)
class StartCommand:
    """How to start it: *arguments*, what it reads on *stdin*, and variables of its own."""

    arguments: Sequence[str]
    stdin: str
    env: Mapping[str, str] = field(default_factory=dict)


class Transcript:
    """What the agent's output has told so far. *tell* writes a line into the task's story, *show* is for who follows.

    *metered* is called whenever ``usage`` has changed.

    ``result``: its last answer. ``ended``: it said itself that it was done, well or not. ``remarks``: what a person
    should read, below the log. ``synthetic``: what its program said in its place, and no answer followed.
    ``limit``: the limit that its provider says it has reached. ``refused``: the ids of tools that it was not allowed.
    """

    def __init__(
        self,
        tell: Callable[[EventType, dict[str, Any]], None],
        *,
        hide: Callable[[str], str] = str,
        show: Callable[[str], None] = lambda _line: None,
        metered: Callable[[], None] = lambda: None,
    ) -> None:
        self._tell = tell
        self._hide = hide
        self._show = show
        self._metered = metered
        self._told = 0
        self.result: str | None = None
        self.session: str | None = None
        self.model: str | None = None
        self.failure: AgentFailure | None = None
        self.ended = False
        self.usage: dict[str, Usage] = {}
        self.remarks: list[str] = []
        self.synthetic: str | None = None
        self.synthetic_type: str | None = None
        self.limit: ProviderLimit | None = None
        self.refused: set[str] = set()
        self.overcome = False  # it met an error and went on, or was done before
        self._done = False  # it said that it was done, and has said nothing since
        self._before: AgentFailure | None = None  # an error that it went on after

    def say(self, text: str) -> None:
        """It said something."""
        self._done = False
        if text.strip():
            self._event(EventType.PROGRESS, {"text": self._short(text)})
            self._show(self._hide(clean_text(text)).rstrip("\n"))

    def call(self, tool: object, given: object, *, id_: object = None) -> None:
        """It uses a tool."""
        self._done, self.synthetic = False, None
        name, what = self._short(tool), self._short(given)
        self._event(EventType.TOOL_CALL, _given(tool=name, input=what, id=self._short(id_)))
        self._show(f"\N{RIGHTWARDS ARROW} {name or 'a tool'} {what or ''}".rstrip())

    def returned(self, output: object, *, id_: object = None, failed: bool = False) -> None:
        """What a tool gave back."""
        text = self._short(output)
        self._event(
            EventType.TOOL_RESULT, _given(output=text, id=self._short(id_)) | ({"failed": True} if failed else {})
        )
        mark = "\N{MULTIPLICATION SIGN}" if failed else "\N{LEFTWARDS ARROW}"
        self._show(f"{mark} {text or ''}".strip().replace("\n", "\n  "))

    def spent(self, key: str, usage: Usage | None) -> None:
        """What calls of a model used; what was told under the same *key* before is replaced."""
        if usage is None:
            self.usage.pop(key, None)
        else:
            self.usage[key] = usage
        self._metered()

    def synthesized(self, text: str, *, type_: object = None) -> None:
        """Its program said something in its place; *type_*: the kind of error, if it is one."""
        self.synthetic, self.synthetic_type = text, type_ if isinstance(type_, str) else None

    @property
    def is_done(self) -> bool:
        """Whether it has said that it was done, and nothing since."""
        return self._done

    def refuse(self, id_: object) -> None:
        """It was not allowed to use a tool: the call with this id, or one without."""
        self.refused.add(str(id_ or f"number {len(self.refused)}"))

    def finish(self) -> None:
        """It says that it is done, and well: what went wrong before is overcome."""
        self.overcome = self.overcome or self.failure is not None or self._before is not None
        self.ended = self._done = True
        self.failure = self._before = None

    def recover(self) -> None:
        """Its provider answers again."""
        self.overcome = self.overcome or self._before is not None
        self._before = self.synthetic = None

    def go_on(self) -> None:
        """It works on, whatever it said before: an error was one of a step."""
        if self.failure is not None:
            self._before, self.failure = self.failure, None
        self.ended = self._done = False

    def note_error(self, sentence: object, **known: Any) -> None:
        """An error after which it may go on: it counts when nothing else comes."""
        if self._done:
            self._aside(str(sentence or ""))
        else:
            self._before = self._failure(sentence, **known)

    def fail(self, sentence: object, **known: Any) -> None:
        """It gave up. *known*: ``status``, ``type_``, ``words``, ``lost_connection``, ``otherwise`` of
        ``failure_of_words``. After it has said that it was done, what follows at once is no failure of its own."""
        if self._done:
            self._aside(str(sentence or ""))
        else:
            self.ended, self.failure = True, self._failure(sentence, **known)

    @property
    def unresolved(self) -> AgentFailure | None:
        """The last error, if it has said nothing since and is not done."""
        return None if self.ended else self._before

    def cut_off(self) -> None:
        """Nothing more comes: the last error counts, or what its program said last, if it never said it was done."""
        if not self.ended and self.failure is None:
            self.failure = self._before
            if self.failure is None and self.synthetic:
                self.failure = self._failure(self.synthetic, type_=self.synthetic_type)

    def _failure(self, sentence: object, *, status: object = None, words: object = None, **known: Any) -> AgentFailure:
        number = status if isinstance(status, int) and not isinstance(status, bool) else None
        text = self._hide(str(sentence or "it gave no reason"))
        failure = failure_of_words(text, status=number, words=None if words is None else str(words), **known)
        return with_limit(failure, self.limit)

    def _aside(self, sentence: str) -> None:
        self.overcome = True
        self.remarks.append(f"after it was done: {one_line(self._hide(clean_text(sentence)), LONGEST_SENTENCE)}")

    def _event(self, type_: EventType, payload: dict[str, Any]) -> None:
        self._told += 1
        if self._told < MOST_EVENTS:
            self._tell(type_, payload)
        elif self._told == MOST_EVENTS:
            self._tell(EventType.PROGRESS, {"text": f"… more than {MOST_EVENTS:,} events: the rest is not shown"})

    def _short(self, value: object) -> str | None:
        if value is None:
            return None
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        text = self._hide(clean_text(text))
        return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}… ({len(text):,} characters)"


class Adapter(Protocol):
    """One agent."""

    @property
    def name(self) -> str:
        """As a job calls it; and the program, if it says nothing else."""
        ...

    @property
    def passes_on(self) -> Sequence[str]:
        """Variables of the worker's environment that it needs by its nature."""
        ...

    @property
    def log_in(self) -> LogIn:
        """How its program is logged in, for a sentence about one that is not."""
        ...

    @property
    def resumes(self) -> bool:
        """Whether it can go on with a conversation that it had before, by its session's id, whatever the job says."""
        ...

    @property
    def counts_anew(self) -> bool:
        """Whether the usage that it tells in a resumed conversation is of this part of it alone."""
        ...

    @property
    def takes_servers(self) -> Sequence[str]:
        """Arguments that give it the MCP servers of ``{file}`` and let it use ours; empty: it knows no such."""
        ...

    def start(self, call: AgentCall, session: str | None = None) -> StartCommand:
        """How this job is started; with *session*, how it goes on with that conversation."""
        ...

    def read(self, line: Mapping[str, Any], told: Transcript, call: AgentCall) -> None:
        """One JSON object of its output."""
        ...


def json_line(line: bytes) -> dict[str, Any] | None:
    """The object on one line, with exact amounts; None for whatever is none: agents print other things, too."""
    try:
        found = json.loads(decode(line), parse_float=Decimal, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def tokens(
    model: object,
    *,
    read: object = 0,
    written: object = 0,
    cached: object = 0,
    cost: object = None,
    session: str | None = None,
    **extra: object,
) -> Usage | None:
    """One record of usage, or None when nothing was used. *read* counts all input, the *cached* part of it too.

    *cost*: dollars as the agent says; an amount that is none is unknown, not zero.
    """
    counts = [_count(value) for value in (read, written, cached)]
    if not any(counts) and not cost:
        return None
    more = {name: number for name, value in extra.items() if (number := _count(value))}
    return Usage(
        model=clean_text(str(model or "unknown"))[:200],
        input_tokens=counts[0],
        output_tokens=counts[1],
        cached_input_tokens=min(counts[2], counts[0]),
        total_tokens=counts[0] + counts[1],
        cost_usd=_amount(cost),
        session_id=session,
        extra=more,
    )


def total(*values: object) -> int:
    """The sum of counts, in which what is no count is nothing."""
    return sum(map(_count, values))


def at(value: object, *path: str) -> Any:
    """What stands at *path* in nested mappings, or None."""
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def texts(value: object) -> str:
    """The texts of a message's content: a text itself, or the text parts of a list."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(part["text"] for part in value if isinstance(at(part, "text"), str))
    return ""


def _given(**values: Any) -> dict[str, Any]:
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
    # A number was added up in floats, 0.009899999999999999; a text was meant as it is.
    noisy = not isinstance(value, str) and amount != (rounded := amount.quantize(_FINEST))
    return rounded if noisy else amount
