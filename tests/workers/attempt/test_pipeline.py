"""Test that steps run from the outermost in, that only those which apply run, and that a bug fails one attempt only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordination.base.errors import Refused
from coordination.domain.tasks.attempts import AttemptEnd, Claim, Outcome
from tests.support.apps import context_of, worker_settings
from tests.support.jobs import claim_of
from workers.attempt.pipeline import ConditionalStep, Pipeline
from workers.attempt.running import AttemptStep, Proceed, RunningAttempt
from workers.attempt.step_list import make_steps
from workers.attempt.steps.variants import VariantsStep
from workers.runners.base import Control
from workers.runners.registry import Runners


def always(_claim: Claim) -> bool:
    return True


DONE = AttemptEnd(Outcome.COMPLETED, output="done")


class Echo:
    """A runner that returns the folder of its claim."""

    def run(self, claim: Claim, control: Control) -> AttemptEnd:
        return replace(DONE, output=claim.workdir)


def run(tmp_path: Path, *steps: AttemptStep, claim: Claim | None = None) -> AttemptEnd:
    claim = claim or claim_of({"shell": "true"}, workdir="/")
    pipeline = Pipeline([ConditionalStep(always, step) for step in steps], lambda _: Echo())
    with Control(scratch=tmp_path) as control:
        return pipeline.run(RunningAttempt(claim, claim, claim, control, is_ours=lambda: True))


def appending(name: str) -> AttemptStep:
    """Return a step that appends its name to the folder before the job, and to the output after it."""

    def step(attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        claim = replace(attempt.claim, workdir=f"{attempt.claim.workdir}{name}")
        result = proceed(replace(attempt, claim=claim))
        return replace(result, output=f"{result.output}|{name}")

    return step


def test_steps_run_in_their_order_before_the_job_and_in_reverse_after_it(tmp_path: Path) -> None:
    assert run(tmp_path, appending("a"), appending("b")).output == "/ab|b|a"


def test_a_step_that_does_not_apply_is_left_out(tmp_path: Path) -> None:
    steps = [ConditionalStep(lambda claim: claim.key == "a", appending("a")), ConditionalStep(always, appending("b"))]
    claim = claim_of({"shell": "true"}, key="b", workdir="/")

    with Control(scratch=tmp_path) as control:
        attempt = RunningAttempt(claim, claim, claim, control, is_ours=lambda: True)
        result = Pipeline(steps, lambda _: Echo()).run(attempt)

    assert result.output == "/b|b"


@pytest.mark.parametrize(
    ("error", "retryable", "sentence"),
    [(Refused("No", hint="Yes"), False, "No. Yes."), (KeyError("x"), True, "the runner failed: KeyError: 'x'")],
)
def test_an_error_of_a_step_fails_its_attempt(
    tmp_path: Path,
    error: Exception,
    retryable: bool,  # noqa: FBT001
    sentence: str,
) -> None:
    def fails(attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        raise error

    result = run(tmp_path, fails)

    assert (result.outcome, result.retryable, result.error) == (Outcome.FAILED, retryable, sentence)


def test_only_steps_that_listen_hear_of_a_stored_end() -> None:
    heard: list[Any] = []

    class Listener:
        def __call__(self, attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
            return proceed(attempt)

        def committed(self, claim: Claim, end: AttemptEnd, *, refused: bool) -> None:
            heard.append((claim.key, end.outcome, refused))

        def close(self) -> None:
            heard.append("closed")

    steps = [ConditionalStep(always, appending("a")), ConditionalStep(always, Listener())]
    pipeline = Pipeline(steps, lambda _: Echo())
    pipeline.committed(claim_of({"shell": "true"}, key="a"), DONE, refused=False)
    pipeline.close()

    assert heard == [("a", Outcome.COMPLETED, False), "closed"]


@pytest.fixture
def steps(sqlite_url: str, redis_url: str, tmp_path: Path) -> Iterator[list[ConditionalStep]]:
    with context_of(worker_settings(sqlite_url, redis_url, tmp_path)) as context:
        runners = Runners()
        created = make_steps(context, runners)
        yield created
        Pipeline(created, lambda claim: runners.by_kind[claim.job_kind]).close()
        runners.close()


@pytest.mark.parametrize(
    ("work", "options", "names"),
    [
        ({"shell": "true"}, {}, "AttemptFolders AgentChannelStep"),
        ({"shell": "true"}, {"gates": ["true"]}, "AttemptFolders make_job_folder GatesStep AgentChannelStep"),
        (
            {"agent": "claude", "prompt": "x"},
            {"checkout": {"kind": "git-worktree"}, "outputs": ["x"], "gates": ["true"], "role": {"variant": 1}},
            (
                "ModelPolicyStep add_subtasks AttemptFolders make_job_folder WorktreeStep VariantsStep ArtifactsStep "
                "GatesStep EffectsStep commit_worktree add_feedback review_answer AgentChannelStep PromptStep"
            ),
        ),
    ],
)
def test_an_attempt_passes_through_the_steps_that_it_needs(
    steps: list[ConditionalStep], work: dict[str, Any], options: dict[str, Any], names: str
) -> None:
    applied = [one.step for one in steps if one.applies(claim_of(work, options=options))]

    assert " ".join(getattr(step, "__name__", type(step).__name__) for step in applied) == names


def test_the_end_of_a_job_of_an_unknown_kind_is_handled(steps: list[ConditionalStep]) -> None:
    claim = claim_of({"unheard": "of"})
    pipeline = Pipeline(steps, lambda _: Echo())

    pipeline.committed(claim, AttemptEnd(Outcome.FAILED, error="unknown", job_started=False), refused=False)


@pytest.mark.parametrize("ended", [{"outcome": Outcome.FAILED}, {"outcome": Outcome.DEFERRED, "question": "Which?"}])
def test_a_variant_that_is_not_done_does_not_win(tmp_path: Path, ended: dict[str, Any]) -> None:
    class NoStore:
        """A context that raises when its store is used."""

    def unfinished(attempt: RunningAttempt, proceed: Proceed) -> AttemptEnd:
        return replace(DONE, **ended)

    result = run(tmp_path, VariantsStep(NoStore()), unfinished)  # type: ignore[arg-type]

    assert result == replace(DONE, **ended)
