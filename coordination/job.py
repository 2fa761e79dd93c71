"""For use inside a job: report model usage, ask to be tried later, learn which task this is. Standard library only.

    from coordination.job import TryLater, context, record_usage

    def summarise(path, needs):
        if not quota_left():
            raise TryLater("the provider is out of quota")
        record_usage(model="gpt-5-mini", input_tokens=1200, output_tokens=85, cost_usd="0.00047")
        return {"attempt": context()["COORD_ATTEMPT"]}

Outside a job (a test, a trial by hand) ``record_usage`` checks its arguments and writes nothing.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

_PREFIX = "COORD_"


class TryLater(Exception):
    """Raise it from a Python job to be tried again later, without a failure being charged.

    A process does the same with exit status 75.
    """


def context() -> dict[str, str]:
    """The variables that describe this attempt: COORD_TASK_ID, COORD_ATTEMPT, COORD_PROJECT, …; empty outside a job."""
    return {name: value for name, value in os.environ.items() if name.startswith(_PREFIX)}


def record_usage(
    *,
    model: str,
    input_tokens: int = 0,
    output_tokens: int = 0,
    cached_input_tokens: int = 0,
    cache_write_input_tokens: int = 0,
    reasoning_output_tokens: int = 0,
    cost_usd: Decimal | str | float | None = None,
    session_id: str | None = None,
    id: str | None = None,  # noqa: A002 - the record's own field name
) -> None:
    """Report one model call of this job. ``cost_usd`` None: it is computed, by the prices that are set or listed.

    ``input_tokens`` counts all input, what was read from a cache or written to one too; ``output_tokens`` all output,
    reasoning too. Of a model without a known price the cost is recorded as unknown.

    Amounts are exact: give a Decimal or a text; a float is read by its shortest decimal form. Every record is written
    at once, so what was spent is counted even if the job fails or is killed afterwards.
    """
    if not isinstance(model, str) or not model.strip():
        raise ValueError("model must be the name of a model")
    for name, count in (
        ("input_tokens", input_tokens),
        ("output_tokens", output_tokens),
        ("cached_input_tokens", cached_input_tokens),
        ("cache_write_input_tokens", cache_write_input_tokens),
        ("reasoning_output_tokens", reasoning_output_tokens),
    ):
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"{name} must be a number of tokens, not {count!r}")
    record: dict[str, object] = {
        "model": model,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "timestamp": datetime.now(UTC).isoformat(),
    }
    parts = {
        "cached_input_tokens": cached_input_tokens,
        "cache_write_input_tokens": cache_write_input_tokens,
        "reasoning_output_tokens": reasoning_output_tokens,
    }
    record |= {name: count for name, count in parts.items() if count}
    if cost_usd is not None:
        record["cost_usd"] = _amount(cost_usd)
    if session_id is not None:
        record["session_id"] = session_id
    if id is not None:
        record["id"] = id
    path = os.environ.get("COORD_COSTS")
    if path:
        _append(path, json.dumps(record) + "\n")


def _amount(value: Decimal | str | float) -> str:
    """The exact amount as text: a JSON number would come back as a float in many readers."""
    try:
        amount = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    except (InvalidOperation, TypeError, ValueError):
        raise ValueError(f"cost_usd must be an amount of dollars, not {value!r}") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"cost_usd must be an amount of dollars, not {value!r}")
    return f"{amount:f}"


def _append(path: str, line: str) -> None:
    # One write to a file opened for appending: lines of several threads and processes do not mix.
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, line.encode("utf-8"))
    finally:
        os.close(handle)
