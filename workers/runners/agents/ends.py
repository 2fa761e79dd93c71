"""Determines how an agent's attempt ended, from its process and its output."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from coordination.base.host import host
from coordination.domain.jobs import AgentCall
from coordination.domain.jobs.provider_error_table import ProviderErrorClass
from coordination.domain.tasks.attempts import Outcome
from workers.runners import program
from workers.runners.agents.base import Adapter, Transcript
from workers.runners.agents.failures import AgentFailure, classify_failure
from workers.runners.output import clean_text, last_line
from workers.runners.process_watch import Interruption

_ERROR_LIMIT = 300
_LAST_LINES = 20
_HAD_ERROR = 1  # exit status of programs that met an error, even if they recovered
_CLASSES_OF_LOG = (ProviderErrorClass.LIMIT, ProviderErrorClass.LOG_IN)
_CLASSES_OF_ERROR = (ProviderErrorClass.TRANSIENT, *_CLASSES_OF_LOG)


@dataclass(frozen=True, slots=True)
class AgentEnd:
    """Fields of the AttemptEnd, and notes for people below the log."""

    fields: dict[str, Any]
    remarks: Sequence[str] = field(default=())


def agent_end(
    ran: program.ProgramResult,
    transcript: Transcript,
    call: AgentCall,
    *,
    advice: str,
    account: str,
    printed: str,
    complaints: str = "",
) -> AgentEnd:
    """Return how the attempt ended. *advice*: for an agent that is not logged in; *account*: the owner of a limit.

    *printed*: the program's stdout; *complaints*: its stderr since the last output on stdout.
    """
    lingered = ran.interruption is not None and ran.interruption.outcome is Outcome.COMPLETED
    if ran.interruption is not None and not lingered:
        return AgentEnd(_interrupted(ran.interruption, transcript, complaints, account))
    remarks = [ran.interruption.error] if ran.interruption is not None else []
    if transcript.failure is not None:
        return AgentEnd(_failed(transcript.failure, advice, account), remarks)
    if lingered:
        return AgentEnd({"outcome": Outcome.COMPLETED}, remarks)
    message = last_line(ran.log or printed, _ERROR_LIMIT)
    outcome, error = program.judge_exit(ran.exit_code, message=message)
    if outcome is Outcome.FAILED and ran.exit_code == _HAD_ERROR and transcript.is_done and transcript.overcome:
        return AgentEnd(
            {"outcome": Outcome.COMPLETED}, ["exit status 1 ignored: the agent reported success after an error"]
        )
    if outcome is Outcome.COMPLETED and not transcript.ended:
        outcome, error = Outcome.FAILED, f"{call.agent} ended without reporting that it was done"
    if (
        outcome is Outcome.FAILED
        and not transcript.ended
        and (failure := _classify_output(ran, error or "", printed)) is not None
    ):
        return AgentEnd(_failed(failure, advice, account), remarks)
    return AgentEnd({"outcome": outcome, "error": error}, remarks)


def limited_account(adapter: Adapter, call: AgentCall) -> str:
    """Return the owner of a limit: the account, or the program with the variable that it is logged in with."""
    if call.account is not None:
        return call.account
    environment = {**os.environ, **call.env}
    names = (*call.secrets, *adapter.login.variables)
    used = next((name for name in names if environment.get(name)), None)
    return f"{call.agent} with {used}" if used else f"{call.agent} as it is logged in on {host()}"


def _interrupted(interruption: Interruption, transcript: Transcript, complaints: str, account: str) -> dict[str, Any]:
    """Return the fields of an interrupted attempt, deferred if its program kept retrying an unavailable provider."""
    if interruption.outcome is Outcome.TIMED_OUT and not transcript.ended:
        failure = transcript.unresolved or classify_failure(complaints)
        if failure.error_class.waits:
            sentence = f"{interruption.error}: its program kept retrying an unavailable provider ({failure.sentence})"
            return {**failure.end_fields(account=account), "error": sentence}
    return {"outcome": interruption.outcome, "error": interruption.error}


def _failed(failure: AgentFailure, advice: str, account: str) -> dict[str, Any]:
    fields = failure.end_fields(account=account)
    if failure.error_class is ProviderErrorClass.LOG_IN:
        fields["error"] = f"{advice} (it said: {failure.sentence})"
    return fields


def _classify_output(ran: program.ProgramResult, error: str, printed: str) -> AgentFailure | None:
    """Classify the last output of an agent that reported no end: login errors come as text or on stderr."""
    if ran.exit_code is not None and ran.exit_code < 0:
        return None
    last = "\n".join([line for line in (ran.log or printed).splitlines() if line.strip()][-_LAST_LINES:])
    for words, classes in ((error, _CLASSES_OF_ERROR), (clean_text(last) or error, _CLASSES_OF_LOG)):
        failure = classify_failure(error, words=words)
        if failure.error_class in classes:
            return failure
    return None
