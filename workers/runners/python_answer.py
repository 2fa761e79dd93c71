"""Determines how the attempt of a Python job ended, from the answer of its process or from its exit. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from workers.runners.process import death_sentence
from workers.runners.process_watch import Interruption
from workers.runners.program import TRY_LATER_STATUS

_OUTCOMES = {"completed": Outcome.COMPLETED, "deferred": Outcome.DEFERRED, "failed": Outcome.FAILED}


def end_of_answer(
    interruption: Interruption | None,
    answer: Mapping[str, Any] | None,
    exit_code: int | None,
    printed: str,
    *,
    is_invalid: bool,
) -> AttemptEnd:
    """Return the end of a job. *exit_code*: of its ended process; *is_invalid*: its answer is unreadable."""
    if interruption is not None:
        return AttemptEnd(interruption.outcome, exit_code=exit_code, error=interruption.error, log=printed or None)
    if answer is not None:
        return AttemptEnd(
            _OUTCOMES.get(answer["state"], Outcome.FAILED),
            output=answer.get("output"),
            exit_code=answer.get("exit_code"),
            error=answer.get("error"),
            log=_log(printed, answer.get("traceback", "")),
            retryable=answer.get("retryable", True),
        )
    if is_invalid:
        error = "its process sent an invalid answer: something else wrote on its channel"
        return AttemptEnd(Outcome.FAILED, exit_code=exit_code, error=error, log=printed or None)
    if exit_code == TRY_LATER_STATUS:
        return AttemptEnd(Outcome.DEFERRED, exit_code=exit_code, error=f"exit status {exit_code}", log=printed or None)
    if exit_code is not None and exit_code < 0:
        error = death_sentence(exit_code)
    else:
        error = f"its process ended with exit status {exit_code} before the function returned"
    return AttemptEnd(Outcome.FAILED, exit_code=exit_code, error=error, log=printed or None)


def _log(printed: str, traceback: str) -> str | None:
    separator = "\n" if printed and traceback and not printed.endswith("\n") else ""
    return f"{printed}{separator}{traceback}" or None
