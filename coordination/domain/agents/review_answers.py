"""What an agent that supervises answers, as JSON: read from whatever it wrote around it, checked, cut to size."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordination.base.errors import Refused
from coordination.base.wording import excerpt
from coordination.domain.tasks.questions import LONGEST

MOST_SUBTASKS = 10
LONGEST_TEXT = 4_000

DONE, AGAIN, PUNTED = "done", "again", "punted"
VERDICTS = (DONE, AGAIN, PUNTED)

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """A task that a supervisor asks for. ``needs``: keys of others that it asks for together with it."""

    key: str
    title: str
    prompt: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Assessment:
    """How a task is to be done, what may go wrong, and what is to be done first, as tasks of their own."""

    strategy: str
    risks: tuple[str, ...] = ()
    subtasks: tuple[Part, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As the assessing task's output."""
        return {
            "strategy": self.strategy,
            "risks": list(self.risks),
            "subtasks": [_plain(one) for one in self.subtasks],
        }


@dataclass(frozen=True, slots=True)
class Analysis:
    """Whether a task is done, is to be gone on with, or is left for later; and what was found on the way."""

    verdict: str
    why: str
    follow_ups: tuple[Part, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As an event tells it."""
        return {"verdict": self.verdict, "why": self.why, "follow_ups": [_plain(one) for one in self.follow_ups]}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question is answered, or why it *cannot* be."""

    text: str | None = None
    cannot: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As the answering task's output."""
        return {"answer": self.text} if self.cannot is None else {"cannot": self.cannot}


def read_answer(answer: object) -> Answer:
    """What *answer* says to a question; Refused with one sentence for what is wrong with it."""
    found = _object(answer)
    if ("answer" in found) == ("cannot" in found):
        raise Refused("It says either answer or cannot")
    if "cannot" in found:
        return Answer(cannot=_text(found, "cannot"))
    text = found["answer"]
    if not isinstance(text, str) or not text.strip() or len(text) > LONGEST:
        raise Refused(f"answer must be a text of at most {LONGEST:,} characters, not {excerpt(text)}", field="answer")
    return Answer(text.replace("\0", ""))


def read_assessment(answer: object) -> Assessment:
    """The assessment in *answer*; Refused with one sentence for what is wrong with it."""
    found = _object(answer)
    return Assessment(_text(found, "strategy"), _texts(found, "risks"), _parts(found, "subtasks"))


def read_analysis(answer: object) -> Analysis:
    """The analysis in *answer*; Refused with one sentence for what is wrong with it."""
    found = _object(answer)
    verdict = found.get("verdict")
    if verdict not in VERDICTS:
        raise Refused(
            f"verdict is {', '.join(VERDICTS[:-1])} or {VERDICTS[-1]}, not {excerpt(verdict)}", field="verdict"
        )
    return Analysis(str(verdict), _text(found, "why"), _parts(found, "follow_ups"))


def _plain(part: Part) -> dict[str, Any]:
    return {"key": part.key, "title": part.title, "prompt": part.prompt, "needs": list(part.needs)}


def _object(answer: object) -> Mapping[str, Any]:
    if isinstance(answer, Mapping):
        return answer
    if not isinstance(answer, str):
        raise Refused("The answer holds no JSON object")
    tried = [*reversed(_FENCED.findall(answer)), answer.strip(), _from_first_brace(answer)]
    for text in tried:
        try:
            found = json.loads(text, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    raise Refused("The answer holds no JSON object")


def _from_first_brace(answer: str) -> str:
    begin, end = answer.find("{"), answer.rfind("}")
    return answer[begin : end + 1] if 0 <= begin < end else ""


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value.strip():
        raise Refused(f"{name} must be a text, not {excerpt(value)}", field=name)
    return value[:LONGEST_TEXT]


def _texts(found: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = found.get(name) or []
    if not isinstance(values, Sequence) or isinstance(values, str) or not all(isinstance(one, str) for one in values):
        raise Refused(f"{name} must be a list of texts", field=name)
    return tuple(one[:LONGEST_TEXT] for one in values[:MOST_SUBTASKS])


def _parts(found: Mapping[str, Any], name: str) -> tuple[Part, ...]:
    values = found.get(name) or []
    if not isinstance(values, list) or not all(isinstance(one, Mapping) for one in values):
        raise Refused(f"{name} must be a list of objects with key, title and prompt", field=name)
    if len(values) > MOST_SUBTASKS:
        raise Refused(f"{name} has {len(values)} tasks; at most {MOST_SUBTASKS} are possible", field=name)
    parts: list[Part] = []
    for one in values:
        key = one.get("key")
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise Refused(f"{excerpt(key)} in {name} is no key: letters, digits and . _ -")
        earlier = [part.key for part in parts]
        if key in earlier:
            raise Refused(f"Two of {name} have the key {key}")
        needs = _texts(one, "needs")
        if unknown := [need for need in needs if need not in earlier]:
            raise Refused(f"{key} in {name} needs {excerpt(unknown[0])}, which is not one of those before it")
        parts.append(Part(key, _text(one, "title")[:200], _text(one, "prompt"), needs))
    return tuple(parts)
