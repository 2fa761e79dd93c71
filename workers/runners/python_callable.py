"""Runs an importable function in a warm process of its own: output is what it returns, the log what it prints.

A parameter named ``input`` or ``needs`` that the plan gives no argument for receives the task's input, or the results
of the tasks that it needs. Modules are looked up in the job's python_path, then in its folder, then as usual.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coordination.domain.attempts import Claim, Outcome, Result
from coordination.domain.work import PythonCall, parse_work
from coordination.errors import Refused
from workers.runners import environment, usage
from workers.runners.base import Control
from workers.runners.output import Capture
from workers.runners.pool import Answer, Child, Key, Pool
from workers.runners.process import death_sentence
from workers.runners.shell import TRY_LATER_STATUS, cannot_start, missing_folder, refused
from workers.runners.watch import Interruption, Watch

_STALE = "stale"
_OUTCOMES = {"completed": Outcome.COMPLETED, "deferred": Outcome.DEFERRED, "failed": Outcome.FAILED}


class PythonRunner:
    """Executes Python jobs."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def run(self, claim: Claim, control: Control) -> Result:
        """Call the function in a process of the pool."""
        if control.stop_reason is not None:
            return Result(control.stop_reason.outcome, error="stopped before it began", began=False)
        try:
            work = parse_work(claim.work)
        except Refused as refusal:
            return refused(refusal.sentence())
        if not isinstance(work, PythonCall):
            return refused(f"A {work.kind} job is not a Python call")
        with environment.Scratch(control.scratch, claim) as scratch:
            folder = claim.workdir or scratch.make_folder()
            if not os.path.isdir(folder):  # noqa: PTH112 - one system call, on the hot path
                return missing_folder(folder)
            path = [os.path.join(folder, entry) for entry in claim.python_path]  # noqa: PTH118 - as above
            if claim.workdir is not None and claim.workdir not in path:
                path.append(claim.workdir)
            key = Key(claim.workdir, tuple(path), tuple(sorted(work.env.items())))
            variables = environment.of_attempt(claim, scratch)
            request = {
                "target": work.target,
                "args": dict(work.args),
                "input": claim.input,
                "needs": claim.needs,
                "env": variables,
                "cwd": folder,
                "path": path,
                "limit": control.output_limit,
            }
            result = self._call(key, request, claim, control)
            spent, warnings = usage.read(scratch.costs)
        if not spent and not warnings:
            return result
        return replace(result, usage=spent, log=usage.with_warnings(result.log or "", warnings))

    def _call(self, key: Key, request: Mapping[str, Any], claim: Claim, control: Control) -> Result:
        while True:
            try:
                child = self._pool.take(key)
            except (OSError, ValueError) as error:
                return cannot_start(error)
            fresh = child.jobs == 0
            result = self._ask(child, request, claim, control)
            if result is not None:
                return result
            if fresh:
                return Result(Outcome.DEFERRED, error="The interpreter for the job ended before it took the job")

    def _ask(self, child: Child, request: Mapping[str, Any], claim: Claim, control: Control) -> Result | None:
        """The job's end as this process sees it; None when the job did not begin there and may be given to another."""
        log = Capture(control.output_limit)
        answer = Answer(control.output_limit)
        marker = f"{environment.MARKER}={request['env'][environment.MARKER]}"
        child.process.carries(marker)
        watch = Watch(
            child.process,
            control,
            output={child.output: log.feed},
            answer=(child.channel, answer.read),
            timeout=claim.timeout,
            stall_timeout=claim.stall_timeout,
        )
        reusable = False
        try:
            control.started(replace(child.process.record, marker=marker))
            try:
                child.send(request)
            except OSError:
                return None
            interruption = watch.run()
            if interruption is None and answer.value is not None and "retire" not in answer.value:
                reusable = answer.value["state"] != _STALE
            if reusable:
                child.read_output(log)
            else:
                child.process.end()
                watch.drain()
        finally:
            if reusable:
                self._pool.give_back(child)
            else:
                child.close()
        if interruption is None and answer.value is not None and answer.value["state"] == _STALE:
            return None
        return _result(interruption, answer, child.process.exit_code, log.text())


def _result(interruption: Interruption | None, answer: Answer, exit_code: int | None, printed: str) -> Result:
    if interruption is not None:
        return Result(interruption.outcome, exit_code=exit_code, error=interruption.error, log=printed or None)
    said = answer.value
    if said is not None:
        return Result(
            _OUTCOMES.get(said["state"], Outcome.FAILED),
            output=said.get("output"),
            exit_code=said.get("exit_code"),
            error=said.get("error"),
            log=_log(printed, said.get("traceback", "")),
            retryable=said.get("retryable", True),
        )
    if answer.nonsense:
        error = "its process answered what nobody can read: something else wrote on its channel"
        return Result(Outcome.FAILED, exit_code=exit_code, error=error, log=printed or None)
    if exit_code == TRY_LATER_STATUS:
        return Result(Outcome.DEFERRED, exit_code=exit_code, error=f"exit status {exit_code}", log=printed or None)
    if exit_code is not None and exit_code < 0:
        error = death_sentence(exit_code)
    else:
        error = f"its process ended with exit status {exit_code} before the function returned"
    return Result(Outcome.FAILED, exit_code=exit_code, error=error, log=printed or None)


def _log(printed: str, traceback: str) -> str | None:
    separator = "\n" if printed and traceback and not printed.endswith("\n") else ""
    return f"{printed}{separator}{traceback}" or None
