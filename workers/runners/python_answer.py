"""What the answer of a Python job, or that there is none, says about how its attempt ended. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from workers.runners.process import death_sentence
from workers.runners.process_watch import Interruption
from workers.runners.program import TRY_LATER_STATUS

_OUTCOMES = {"completed": Outcome.COMPLETED, "deferred": Outcome.DEFERRED, "failed": Outcome.FAILED}


def result_of(
    interruption: Interruption | None,
    said: Mapping[str, Any] | None,
    exit_code: int | None,
    printed: str,
    *,
    malformed: bool,
) -> AttemptEnd:
    """The result of a job that said *said*, printed *printed*, and whose process may have ended with *exit_code*.

    *malformed*: something arrived that is not an answer.
    """
    if interruption is not None:
        return AttemptEnd(interruption.outcome, exit_code=exit_code, error=interruption.error, log=printed or None)
    if said is not None:
        return AttemptEnd(
            _OUTCOMES.get(said["state"], Outcome.FAILED),
            output=said.get("output"),
            exit_code=said.get("exit_code"),
            error=said.get("error"),
            log=_log(printed, said.get("traceback", "")),
            retryable=said.get("retryable", True),
        )
    if malformed:
        error = "its process answered what nobody can read: something else wrote on its channel"
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
