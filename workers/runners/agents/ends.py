"""How an agent's attempt ended: by its process, and by what the agent and its program said."""

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
from workers.runners.agents.failures import AgentFailure, failure_of_words
from workers.runners.output import clean_text, last_line
from workers.runners.process_watch import Interruption

_ERROR_LIMIT = 300
_LAST_LINES = 20
_WENT_ON = 1  # the exit status of programs that met an error, whatever came of it
_KNOWN_BY_LINES = (ProviderErrorClass.LIMIT, ProviderErrorClass.LOG_IN)
_KNOWN_BY_A_LINE = (ProviderErrorClass.TRANSIENT, *_KNOWN_BY_LINES)


@dataclass(frozen=True, slots=True)
class AgentEnd:
    """Fields of the AttemptEnd, and what a person should read below the log."""

    fields: dict[str, Any]
    remarks: Sequence[str] = field(default=())


def end_of(
    ran: program.ProgramResult,
    told: Transcript,
    call: AgentCall,
    *,
    advice: str,
    account: str,
    printed: str,
    complaints: str = "",
) -> AgentEnd:
    """How it ended. *advice*: what to do if it is not logged in; *account*: whose a limit is.

    *printed*: what its program wrote on stdout; *complaints*: on stderr since its last line there.
    """
    lingered = ran.interruption is not None and ran.interruption.outcome is Outcome.COMPLETED
    if ran.interruption is not None and not lingered:
        return AgentEnd(_interrupted(ran.interruption, told, complaints, account))
    remarks = [ran.interruption.error] if ran.interruption is not None else []
    if told.failure is not None:
        return AgentEnd(_failed(told.failure, advice, account), remarks)
    if lingered:
        return AgentEnd({"outcome": Outcome.COMPLETED}, remarks)
    said = last_line(ran.log or printed, _ERROR_LIMIT)
    outcome, error = program.judge(ran.exit_code, said=said)
    if outcome is Outcome.FAILED and ran.exit_code == _WENT_ON and told.is_done and told.overcome:
        return AgentEnd(
            {"outcome": Outcome.COMPLETED}, ["exit status 1, although it was done: an error on its way counts not"]
        )
    if outcome is Outcome.COMPLETED and not told.ended:
        outcome, error = Outcome.FAILED, f"{call.agent} ended without saying that it was done"
    if outcome is Outcome.FAILED and not told.ended and (failure := _of_words(ran, error or "", printed)) is not None:
        return AgentEnd(_failed(failure, advice, account), remarks)
    return AgentEnd({"outcome": outcome, "error": error}, remarks)


def account_of(adapter: Adapter, call: AgentCall) -> str:
    """Whose limit a limit is, as far as is known here: the program, and what it is logged in with."""
    if call.account is not None:
        return call.account
    given = {**os.environ, **call.env}
    names = (*call.secrets, *adapter.log_in.variables)
    used = next((name for name in names if given.get(name)), None)
    return f"{call.agent} with {used}" if used else f"{call.agent} as it is logged in on {host()}"


def _interrupted(interruption: Interruption, told: Transcript, complaints: str, account: str) -> dict[str, Any]:
    """One that ran out of time while its program asked a provider in trouble again and again waits for that one."""
    if interruption.outcome is Outcome.TIMED_OUT and not told.ended:
        failure = told.unresolved or failure_of_words(complaints)
        if failure.error_class.waits:
            sentence = f"{interruption.error}: its program kept asking a provider in trouble ({failure.sentence})"
            return {**failure.ended(account=account), "error": sentence}
    return {"outcome": interruption.outcome, "error": interruption.error}


def _failed(failure: AgentFailure, advice: str, account: str) -> dict[str, Any]:
    fields = failure.ended(account=account)
    if failure.error_class is ProviderErrorClass.LOG_IN:
        fields["error"] = f"{advice} (it said: {failure.sentence})"
    return fields


def _of_words(ran: program.ProgramResult, error: str, printed: str) -> AgentFailure | None:
    """What its last words mean, if it said nothing else: errors of a log-in come on stderr, and as a text."""
    if ran.exit_code is not None and ran.exit_code < 0:
        return None
    last = "\n".join([line for line in (ran.log or printed).splitlines() if line.strip()][-_LAST_LINES:])
    for words, known in ((error, _KNOWN_BY_A_LINE), (clean_text(last) or error, _KNOWN_BY_LINES)):
        failure = failure_of_words(error, words=words)
        if failure.error_class in known:
            return failure
    return None
