"""ZeroClaw's costs.jsonl, one model call per line, to cost records and back without loss. Streams both ways.

Two shapes are read: usage in an object of its own (what the program writes) and everything on one level (what its
description shows). The line as it was read is kept in the record's ``extra``, so nine-digit fractions of a second,
number forms and unknown fields come out again where they stood. A call whose price was unknown when it was
written (``pricing_available: false``) has an unknown cost here, whatever number stands beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from math import isfinite
from typing import Any, Literal

from coordination.base.errors import FormatError, Refused
from coordination.base.ids import is_id
from coordination.base.money import usd
from coordination.domain.money.costs import CostRecord
from coordination.formats import jsonl

Shape = Literal["nested", "flat", "as-read"]

MOST_BYTES = 1_000_000
"""How long a line may be."""

_LONGEST = 500  # letters of a name, by which an index of PostgreSQL can find it
_SUFFIX = 50  # what the id of a correction may have more

_MOST = 10**12  # tokens of a call: more than any model reads, and many calls of it can be added up
_LAST_WORD = 5  # letters of a word that may be cut: false
_LINE, _SHAPE = "line", "shape"
READ_AS = frozenset({_LINE, _SHAPE})
"""Under which names of ``extra`` an imported line is kept, to be written out again."""

_FOREIGN_TASK = ("goal_task_id", "task_id")
_USAGE = (
    "model",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "total_tokens",
    "cost_usd",
    "pricing_available",
    "timestamp",
)
_OWN = "coordination"
_HINT = "Repair or remove the line"


def read_costs(lines: Iterable[bytes], *, source: str | None = None) -> Iterator[CostRecord]:
    """The records of a file, one at a time. FormatError, with file and line, at the first bad line."""
    return (record for _, record in numbered_costs(lines, source=source))


def numbered_costs(
    lines: Iterable[bytes],
    *,
    source: str | None = None,
    torn: Callable[[int], None] | None = None,
    project_id: str | None = None,
) -> Iterator[tuple[int, CostRecord]]:
    """(line, record) of each record of a file. FormatError, with file and line, at the first bad line.

    *torn* is told the number of a last line that its writer has not finished: one without a line end that is no JSON.
    Without it, such a line is as bad as any. *project_id* is that of records that name none.
    """
    for number, line in enumerate(lines, start=1):
        try:
            if len(line) > MOST_BYTES:
                raise Refused(f"the line is longer than {MOST_BYTES:,} bytes")  # noqa: TRY301 - one place names the line
            found = jsonl.parsed(number, line, decimals=True)
            record = None if found is None else _record(*found, project_id)
        except Refused as refused:
            if torn is not None and not line.endswith(b"\n") and _is_torn(line):
                torn(number)
                return
            raise FormatError(refused.message, source=source, line=number, hint=_HINT, field=refused.field) from None
        if record is not None:
            yield number, record


def _is_torn(line: bytes) -> bool:
    """Whether it begins like a record, and ends before the record does."""
    if len(line) > MOST_BYTES or not line.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
        return False
    try:
        jsonl.decoded(line.decode("utf-8", "replace"))
    except json.JSONDecodeError as error:
        # A string that is left open is said to be wrong where it begins.
        open_text, left = error.msg.startswith("Unterminated"), error.doc.rstrip()[error.pos :]
        return open_text or (len(left) <= _LAST_WORD and not left.endswith("}") and error.msg != "Extra data")
    except (ValueError, RecursionError):
        return False
    return False


def write_costs(records: Iterable[CostRecord], shape: Shape = "nested") -> Iterator[bytes]:
    """The lines of a file that reads back as these records; ``as-read`` repeats imported lines letter for letter."""
    for record in records:
        line = record.extra.get(_LINE)
        if isinstance(line, str):
            text = (
                line
                if shape in ("as-read", record.extra.get(_SHAPE))
                else _text(_shaped(jsonl.decoded_exactly(line), shape))
            )
        else:
            text = _text(_shaped(_foreign(record), shape))
        yield text.encode() + b"\n"


def _record(text: str, line: dict[str, Any], project_id: str | None) -> CostRecord:
    inner = line.get("usage")
    nested = isinstance(inner, dict) and "model" in inner
    usage: Mapping[str, Any] = inner if isinstance(inner, dict) and nested else line
    for place in (usage, line):
        if (currency := place.get("currency")) is not None and currency not in {"USD", "usd"}:
            raise Refused(f"the amount is in {jsonl.shown(currency)}; only US dollars can be counted", field="currency")
    given, made = _tokens(usage, "input_tokens"), _tokens(usage, "output_tokens")
    extra = {_SHAPE: "nested" if nested else "flat", _LINE: text}
    for name in _FOREIGN_TASK:
        if isinstance(value := line.get(name), str):
            extra[name] = value
    mine = line.get(_OWN)
    own = _own(mine) if isinstance(mine, dict) else _STRANGERS
    extra |= own["extra"]
    return CostRecord(
        id=_required(line, "id", most=_LONGEST + (_SUFFIX if own["corrects"] is not None else 0)),
        session_id=_optional(line, "session_id", most=_LONGEST),
        agent=_optional(line, "agent_alias", most=_LONGEST),
        model=_required(usage, "model", most=_LONGEST),
        input_tokens=given,
        output_tokens=made,
        cached_input_tokens=_tokens(usage, "cached_input_tokens"),
        total_tokens=_tokens(usage, "total_tokens", min(given + made, _MOST)),
        cost_usd=_cost(usage, may_be_negative=own["corrects"] is not None),
        occurred_at=_moment(_required(usage, "timestamp")),
        extra=extra,
        project_id=own["project_id"] or project_id,
        run_id=own["run_id"],
        task_id=own["task_id"],
        attempt=own["attempt"],
        stale=own["stale"],
        corrects=own["corrects"],
        settles=own["settles"],
        account=own["account"],
    )


def _cost(usage: Mapping[str, Any], *, may_be_negative: bool) -> Decimal | None:
    cost = usage.get("cost_usd")
    known = usage.get("pricing_available")
    if known not in (None, True, False):
        raise Refused("pricing_available must be true or false", field="pricing_available")
    if cost is None:
        return None
    if isinstance(cost, bool) or not isinstance(cost, int | Decimal):
        raise Refused("cost_usd must be a number", field="cost_usd")
    amount = usd(cost, field="cost_usd")
    if amount < 0 and not may_be_negative:
        raise Refused("cost_usd cannot be negative", field="cost_usd")
    return None if known is False else amount


def _tokens(usage: Mapping[str, Any], name: str, default: int = 0) -> int:
    value = usage.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise Refused(f"{name} must be a whole number from 0 to {_MOST:,}", field=name)
    return value


def _required(record: Mapping[str, Any], name: str, *, most: int | None = None) -> str:
    value = _optional(record, name, most=most)
    if value is None:
        raise Refused(f"the record has no {name}", field=name)
    return value


def _optional(record: Mapping[str, Any], name: str, *, most: int | None = None) -> str | None:
    value = record.get(name)
    if value is not None and not isinstance(value, str):
        raise Refused(f"{name} must be a text", field=name)
    if value and most is not None and len(value) > most:
        raise Refused(f"{name} is longer than {most} letters", field=name)
    return value or None


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Refused(
            f"timestamp must be a time like 2026-03-26T21:04:56Z, not {text[:40]!r}", field="timestamp"
        ) from None


def _own(own: Mapping[str, Any]) -> dict[str, Any]:
    """What our own exports say besides: whose call it was, how it was priced. Absent in files of others."""
    found: dict[str, Any] = {name: _optional(own, name) for name in ("project_id", "run_id", "task_id")}
    for name, text in found.items():
        if text is not None and not is_id(text):
            raise Refused(f"{_OWN}.{name} is no id", field=f"{_OWN}.{name}")
        found[name] = text and text.lower()
    attempt = own.get("attempt")
    if attempt is not None and (isinstance(attempt, bool) or not isinstance(attempt, int) or not 0 < attempt < 1 << 31):
        raise Refused(f"{_OWN}.attempt must be a whole number from 1 on", field=f"{_OWN}.attempt")
    corrects, extra = _optional(own, "corrects"), own.get("extra", {})
    if not isinstance(extra, dict):
        raise Refused(f"{_OWN}.extra must be an object", field=f"{_OWN}.extra")
    return {
        **found,
        "attempt": attempt,
        "stale": own.get("stale") is True,
        "corrects": corrects,
        "settles": corrects is not None and own.get("settles") is True,
        "account": _optional(own, "account", most=_LONGEST),
        "extra": _plain(extra),
    }


def _plain(value: Any) -> Any:
    """With decimals as the floats that they were when they were written."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        value = float(value)
        if not isfinite(value):
            raise Refused(f"{_OWN}.extra holds a number that is too large", field=f"{_OWN}.extra")
    return value


def _foreign(record: CostRecord) -> dict[str, Any]:
    """A record of our own as the foreign program writes one."""
    own = {
        "project_id": record.project_id,
        "run_id": record.run_id,
        "task_id": record.task_id,
        "attempt": record.attempt,
        "stale": record.stale or None,
        "corrects": record.corrects,
        "settles": record.settles or None,
        "account": record.account,
        "extra": record.extra or None,
    }
    usage = {
        "model": record.model,
        "input_tokens": record.input_tokens,
        "output_tokens": record.output_tokens,
        "cached_input_tokens": record.cached_input_tokens or None,
        "total_tokens": record.total_tokens,
        "cost_usd": Decimal("0.0") if record.cost_usd is None else record.cost_usd,
        "pricing_available": False if record.cost_usd is None else None,
        "timestamp": record.occurred_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
    }
    return {
        "id": record.id,
        "usage": {name: value for name, value in usage.items() if value is not None},
        "session_id": record.session_id or "",
        **({"agent_alias": record.agent} if record.agent else {}),
        **({_OWN: known} if (known := {name: value for name, value in own.items() if value is not None}) else {}),
    }


def _shaped(line: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """The same record with its usage in an object of its own or not; unknown fields stay in the object they were in."""
    inner = line.get("usage")
    usage = dict(inner) if isinstance(inner, dict) else {}
    if shape == "flat":
        lifted = {name: usage.pop(name) for name in _USAGE if name in usage}
        kept = {name: value for name, value in line.items() if name != "usage" or not isinstance(inner, dict)}
        return {**kept, **lifted, **({"usage": usage} if usage else {})}
    if "usage" in line and not isinstance(inner, dict):
        return line  # a stranger's field of that name: there is no room for ours
    usage |= {name: line[name] for name in _USAGE if name in line}
    kept = {name: value for name, value in line.items() if name not in _USAGE and name != "usage"}
    return {"id": kept.pop("id"), "usage": usage, **kept}


def _text(value: Any) -> str:
    """Compact JSON with decimals as they are, which json.dumps would make floats of."""
    if isinstance(value, dict):
        return (
            "{" + ",".join(f"{json.dumps(key, ensure_ascii=False)}:{_text(item)}" for key, item in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, Decimal):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


_STRANGERS = _own({})
