"""Parsers of the JSON answers of reviewing agents. They ignore text around the JSON, and truncate long texts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coordination.base.errors import Refused
from coordination.base.json_values import to_json_types
from coordination.base.wording import excerpt
from coordination.domain.tasks.questions import MAX_QUESTION_LENGTH

MOST_SUBTASKS = 10
LONGEST_TEXT = 4_000

DONE, AGAIN, PUNTED = "done", "again", "punted"
VERDICTS = (DONE, AGAIN, PUNTED)

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ProposedTask:
    """A task that a reviewing agent proposes. ``needs``: keys of tasks before it in the same answer."""

    key: str
    title: str
    prompt: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Assessment:
    """The strategy for a task, its risks, and tasks that must run first."""

    strategy: str
    risks: tuple[str, ...] = ()
    subtasks: tuple[ProposedTask, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the output of the assessing task."""
        return dict(to_json_types(self))


@dataclass(frozen=True, slots=True)
class Analysis:
    """The verdict on a task (one of VERDICTS), its reason, and follow-up tasks."""

    verdict: str
    why: str
    follow_ups: tuple[ProposedTask, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a question, or why it *cannot* be answered."""

    text: str | None = None
    cannot: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the output of the answering task."""
        return {"answer": self.text} if self.cannot is None else {"cannot": self.cannot}


def read_answer(answer: object) -> Answer:
    """Parse the answer to a question. Raises Refused with one sentence for what is wrong with it."""
    body = _object(answer)
    if ("answer" in body) == ("cannot" in body):
        raise Refused("It must have either answer or cannot")
    if "cannot" in body:
        return Answer(cannot=_text(body, "cannot"))
    text = body["answer"]
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_QUESTION_LENGTH:
        raise Refused(
            f"answer must be a text of at most {MAX_QUESTION_LENGTH:,} characters, not {excerpt(text)}", field="answer"
        )
    return Answer(text.replace("\0", ""))


def read_assessment(answer: object) -> Assessment:
    """Parse an assessment. Raises Refused with one sentence for what is wrong with it."""
    body = _object(answer)
    return Assessment(_text(body, "strategy"), _texts(body, "risks"), _tasks(body, "subtasks"))


def read_analysis(answer: object) -> Analysis:
    """Parse an analysis. Raises Refused with one sentence for what is wrong with it."""
    body = _object(answer)
    verdict = body.get("verdict")
    if verdict not in VERDICTS:
        raise Refused(
            f"verdict must be {', '.join(VERDICTS[:-1])} or {VERDICTS[-1]}, not {excerpt(verdict)}", field="verdict"
        )
    return Analysis(str(verdict), _text(body, "why"), _tasks(body, "follow_ups"))


def _object(answer: object) -> Mapping[str, Any]:
    if isinstance(answer, Mapping):
        return answer
    if not isinstance(answer, str):
        raise Refused("The answer contains no JSON object")
    for text in [*reversed(_FENCED.findall(answer)), answer.strip(), _from_first_brace(answer)]:
        try:
            body = json.loads(text, parse_constant=lambda _: None)
        except (ValueError, RecursionError):
            continue
        if isinstance(body, dict):
            return body
    raise Refused("The answer contains no JSON object")


def _from_first_brace(answer: str) -> str:
    begin, end = answer.find("{"), answer.rfind("}")
    return answer[begin : end + 1] if 0 <= begin < end else ""


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value.strip():
        raise Refused(f"{name} must be a text, not {excerpt(value)}", field=name)
    return value[:LONGEST_TEXT]


def _texts(body: Mapping[str, Any], name: str) -> tuple[str, ...]:
    texts = body.get(name) or []
    if not isinstance(texts, Sequence) or isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise Refused(f"{name} must be a list of texts", field=name)
    return tuple(text[:LONGEST_TEXT] for text in texts[:MOST_SUBTASKS])


def _tasks(body: Mapping[str, Any], name: str) -> tuple[ProposedTask, ...]:
    values = body.get(name) or []
    if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
        raise Refused(f"{name} must be a list of objects with key, title and prompt", field=name)
    if len(values) > MOST_SUBTASKS:
        raise Refused(f"{name} has {len(values)} tasks; at most {MOST_SUBTASKS} are possible", field=name)
    tasks: list[ProposedTask] = []
    for value in values:
        key = value.get("key")
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise Refused(f"{excerpt(key)} in {name} is not a key: letters, digits and . _ -")
        earlier = [task.key for task in tasks]
        if key in earlier:
            raise Refused(f"Two of {name} have the key {key}")
        needs = _texts(value, "needs")
        if unknown := [need for need in needs if need not in earlier]:
            raise Refused(f"{key} in {name} needs {excerpt(unknown[0])}, which is not one of those before it")
        tasks.append(ProposedTask(key, _text(value, "title")[:200], _text(value, "prompt"), needs))
    return tuple(tasks)
