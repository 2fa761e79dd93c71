"""Functions for use inside a job: report usage and progress, ask to be retried later. Standard library only.

    from coordination.job import TryLater, context, record_usage

    def summarise(path, needs):
        if not quota_left():
            raise TryLater("the provider is out of quota")
        record_usage(model="gpt-5-mini", input_tokens=1200, output_tokens=85, cost_usd="0.00047")
        return {"attempt": context()["COORD_ATTEMPT"]}

Programs that commands and agents start can also report, with ``progress`` and ``report``. Functions that a worker calls
(``run: {python: ...}``) cannot: there, and outside of a job (in a test or by hand), ``progress`` only checks its
arguments. Outside of a job, so does ``record_usage``.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

_PREFIX = "COORD_"
_PATIENCE = 60.0


class TryLater(Exception):
    """Raise it in a Python job to defer the task without a failure. Processes exit with status 75 instead."""


def context() -> dict[str, str]:
    """Return the variables of this attempt: COORD_TASK_ID, COORD_ATTEMPT, COORD_PROJECT, …; empty outside of a job."""
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
    """Report one model call of this job. ``cost_usd`` None: computed from the set or listed prices.

    ``input_tokens`` counts all input, including tokens read from and written to a cache; ``output_tokens`` all output,
    including reasoning. Without a known price, the cost is recorded as unknown.

    ``id``: the call's own id, unique within this attempt, if it has one: a call is billed once, however often it is
    reported with it. If the amounts differ, the larger counts, and both are shown.

    Amounts are exact: use a Decimal or a text; a float is read by its shortest decimal form. Every record is written at
    once, so that costs count even if the job fails or is killed afterwards.
    """
    if not isinstance(model, str) or not model.strip():
        raise ValueError("model must be the name of a model")
    sums = {"input_tokens": input_tokens, "output_tokens": output_tokens}
    parts = {
        "cached_input_tokens": cached_input_tokens,
        "cache_write_input_tokens": cache_write_input_tokens,
        "reasoning_output_tokens": reasoning_output_tokens,
    }
    for name, count in (sums | parts).items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"{name} must be a number of tokens, not {count!r}")
    total = {"total_tokens": input_tokens + output_tokens, "timestamp": datetime.now(UTC).isoformat()}
    record: dict[str, object] = {"model": model, **sums, **total}
    record |= {name: count for name, count in parts.items() if count}
    options = {"cost_usd": None if cost_usd is None else _amount(cost_usd), "session_id": session_id, "id": id}
    record |= {name: value for name, value in options.items() if value is not None}
    if path := os.environ.get("COORD_COSTS"):
        _append(path, json.dumps(record) + "\n")


class NotReported(Exception):
    """The report did not reach the worker, or was refused; the message has the reason."""


def report(do: str, /, **arguments: Any) -> dict[str, Any]:
    """Send a report on this attempt to the worker, as ``coord task`` does, and return the answer.

    *do* and its arguments: progress (text, percent), ask (question), escalate (why), discovered (tasks, first),
    delegate (key, to, prompt, title, needs, first), done (output), fail (why, final), context (). Raises NotReported.
    """
    url, token = os.environ.get("COORD_URL"), os.environ.get("COORD_TOKEN")
    if not url or not token:
        raise NotReported("This is not a job that can report: COORD_URL and COORD_TOKEN are not set")
    kind, _, address = url.partition(":")
    if kind != "unix":
        raise NotReported(f"Reports to {kind} are not supported")
    line = json.dumps({"do": do, "token": token, **arguments}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_PATIENCE)
            _connect(connection, address)
            connection.sendall(line)
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline())
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotReported("There is no listener: this attempt or its worker has ended") from None
    except (OSError, ValueError) as error:
        raise NotReported(f"The worker cannot be reached: {error}") from None
    if not isinstance(answer, dict) or answer.get("ok") is not True:
        hint = answer.get("hint") if isinstance(answer, dict) else None
        problem = answer.get("error", "no answer") if isinstance(answer, dict) else "no answer"
        raise NotReported(f"{problem}. {hint}" if hint else str(problem))
    return answer


def _connect(connection: socket.socket, address: str) -> None:
    """Connect; retry while the system answers "again" at once because many others connect."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return connection.connect(address)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def progress(text: str, *, percent: float | None = None) -> None:
    """Report the job's current activity; it counts as a sign of life."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError("progress needs a text")
    if os.environ.get("COORD_TOKEN"):
        report("progress", text=text, **({} if percent is None else {"percent": percent}))


def delegate(
    key: str, *, to: str, prompt: str, title: str | None = None, needs: Sequence[str] = (), first: bool = False
) -> str:
    """Delegate a part or the rest of the work to the agent *to*, and return the id of the new task.

    *needs*: keys of tasks that must complete before it. *first*: this task waits for it: end the job, which is started
    again with the other agent's output. Raises NotReported, also when *to* may use more than this job.
    """
    arguments: dict[str, Any] = {"key": key, "to": to, "prompt": prompt, "first": first}
    if title is not None:
        arguments["title"] = title
    if needs:
        arguments["needs"] = list(needs)
    return str(report("delegate", **arguments)["ids"][key])


def escalate(why: str) -> None:
    """Ask the run's supervisor, or a person, to decide; then end the job, which is started again with the answer.

    Raises NotReported.
    """
    report("escalate", why=why)


def _amount(value: Decimal | str | float) -> str:
    """Return the exact amount as text, because many readers parse JSON numbers as floats."""
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
