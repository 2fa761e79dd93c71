"""Test that a job's artifacts are kept as its plan declares: all of them, only from its folder, within limits."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coordination.adapters.artifact_store import ArtifactStore, fetch_artifact
from coordination.base.errors import Unavailable
from coordination.domain.tasks.attempts import AttemptEnd, Outcome
from tests.support.jobs import claim_of
from workers.attempt.running import RunningAttempt
from workers.attempt.steps import artifacts
from workers.attempt.steps.artifacts import ArtifactLimits, ArtifactsStep
from workers.attempt.steps.job_folder import make_job_folder
from workers.runners import untrusted_files
from workers.runners.base import Control, StopReason
from workers.runners.secret_masking import Secrets

DONE = AttemptEnd(Outcome.COMPLETED, output="done", log="said")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    created = tmp_path / "folder"
    (created / "build" / "deep").mkdir(parents=True)
    for name in ("report.md", "build/a.whl", "build/b.whl", "build/deep/c.whl", "build/.hidden", "odd[1].txt"):
        (created / name).write_text(name)
    return created


@pytest.fixture
def terms(tmp_path: Path) -> ArtifactLimits:
    return ArtifactLimits(ArtifactStore(f"memory://{tmp_path}"), most=10, bytes=1_000)


def kept(
    folder: Path, terms: ArtifactLimits, *outputs: str, result: AttemptEnd = DONE, stopped: bool = False
) -> AttemptEnd:
    claim = claim_of({"shell": "true"}, options={"outputs": list(outputs)}, workdir=str(folder))
    with Control(scratch=folder.parent) as control:
        if stopped:
            control.stop(StopReason.CANCELED)
        attempt = RunningAttempt(claim, claim, claim, control, is_ours=lambda: True)
        return ArtifactsStep(terms)(attempt, lambda _: result)


@pytest.mark.parametrize(
    ("outputs", "paths"),
    [
        (["report.md"], ["report.md"]),
        (["./report.md", "report.md"], ["report.md"]),
        (["build/*.whl"], ["build/a.whl", "build/b.whl"]),
        (["**/*.whl"], ["build/a.whl", "build/b.whl", "build/deep/c.whl"]),
        (["build"], ["build/.hidden", "build/a.whl", "build/b.whl", "build/deep/c.whl"]),
        (["odd[1].txt"], ["odd[1].txt"]),
        (["report.md", "build/a*"], ["build/a.whl", "report.md"]),
        (["build/.*"], ["build/.hidden"]),
    ],
)
def test_what_is_named_is_kept_once(
    folder: Path, terms: ArtifactLimits, tmp_path: Path, outputs: list[str], paths: list[str]
) -> None:
    result = kept(folder, terms, *outputs)

    assert (result.outcome, result.output, result.log) == (Outcome.COMPLETED, "done", "said")
    assert sorted(one.path for one in result.artifacts) == paths
    for one in result.artifacts:
        assert fetch_artifact(one, tmp_path / "got").read_text() == one.path


@pytest.mark.parametrize("missing", ["nothing.md", "build/*.tar", "empty"])
def test_an_output_that_is_missing_fails_the_attempt(folder: Path, terms: ArtifactLimits, missing: str) -> None:
    (folder / "empty").mkdir()

    result = kept(folder, terms, "report.md", missing)

    assert (result.outcome, result.retryable, result.artifacts) == (Outcome.FAILED, True, ())
    assert result.error == f"Its output '{missing}' is missing: the job left no such file in its folder."
    assert (result.output, result.log) == ("done", "said")


@pytest.mark.parametrize("link", ["file", "folder", "inside a folder", "to nothing", "in the middle"])
def test_a_link_that_leads_out_is_refused(folder: Path, terms: ArtifactLimits, tmp_path: Path, link: str) -> None:
    secret = tmp_path / "secrets" / "key"
    secret.parent.mkdir()
    secret.write_text("secret")
    (folder / "sub").mkdir()
    output = {
        "file": lambda: (folder / "x").symlink_to(secret),
        "folder": lambda: (folder / "x").symlink_to(secret.parent),
        "inside a folder": lambda: (folder / "x").mkdir() or (folder / "x" / "key").symlink_to(secret),
        "to nothing": lambda: (folder / "x").symlink_to(tmp_path / "nowhere"),
        "in the middle": lambda: (folder / "x").symlink_to(secret.parent),
    }
    output[link]()

    result = kept(folder, terms, "x/key" if link == "in the middle" else "x")

    assert result.outcome is Outcome.FAILED
    assert result.artifacts == ()
    if link != "to nothing":
        assert "is outside of the job's folder" in (result.error or "")
        assert not result.retryable


def test_a_link_within_the_folder_is_what_it_points_to(folder: Path, terms: ArtifactLimits, tmp_path: Path) -> None:
    (folder / "latest").symlink_to("build/a.whl")

    (created,) = kept(folder, terms, "latest").artifacts

    assert fetch_artifact(created, tmp_path / "got").read_text() == "build/a.whl"


def test_a_folder_that_is_reached_by_a_link_is_inside_itself(
    folder: Path, terms: ArtifactLimits, tmp_path: Path
) -> None:
    (tmp_path / "other name").symlink_to(folder)

    assert len(kept(tmp_path / "other name", terms, "build").artifacts) == 4


def test_what_is_no_file_is_refused_and_nobody_waits_for_it(folder: Path, terms: ArtifactLimits) -> None:
    os.mkfifo(folder / "pipe")

    result = kept(folder, terms, "pipe")

    assert (result.outcome, result.error) == (Outcome.FAILED, "Its output 'pipe' is not a regular file.")


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_files_of_every_name_are_kept_apart_and_come_back(
    folder: Path, tmp_path: Path, terms: ArtifactLimits, scheme: str
) -> None:
    terms = replace(terms, store=ArtifactStore(f"{scheme}://{tmp_path}/kept"), most=40)
    (folder / "all").mkdir()
    names = {
        b"caf\xe9.txt": "caf\\xe9.txt~2593d8cb",
        b"caf\\xe9.txt": "caf\\xe9.txt",
        b"\xff\xfe": "\\xff\\xfe",
        b"a\nb": "a\nb",
        b"-rf": "-rf",
        b"a:b?c*[x].txt": "a:b?c*[x].txt",
        b"50%41 #x::y": "50%41 #x::y",
        b"Readme": "Readme",
        b"README": "README",
        "\u00e9".encode(): "\u00e9",
        "e\u0301".encode(): "e\u0301",
        b"CON": "CON",
        b"nul.txt": "nul.txt",
        b" blank ": " blank ",
        b"...": "...",
        b"~": "~",
        b"x" * 255: "x" * 255,
        "\u00fc".encode() * 127: "\u00fc" * 127,
        b"\x1b[31m": "\x1b[31m",
    }
    for name in names:
        Path(os.fsdecode(os.fsencode(folder) + b"/all/" + name)).write_bytes(name)

    result = kept(folder, terms, "all")

    assert (result.outcome, result.error) == (Outcome.COMPLETED, None)
    assert {one.path.removeprefix("all/") for one in result.artifacts} == set(names.values())
    for one in result.artifacts:
        assert names[fetch_artifact(one, tmp_path / "got").read_bytes()] == one.path.removeprefix("all/")


def test_names_that_differ_only_in_a_secret_are_kept_apart(folder: Path, terms: ArtifactLimits, tmp_path: Path) -> None:
    (folder / "all").mkdir()
    for secret in ("s3cret-one", "s3cret-two"):
        (folder / "all" / f"of {secret}").write_text(secret)
    claim = claim_of({"shell": "true"}, options={"outputs": ["all"]})

    tokens = {"A_TOKEN": "s3cret-one", "B_TOKEN": "s3cret-two"}

    with Control(scratch=tmp_path) as control:
        control.secrets = Secrets(tokens, environ=tokens)
        result = artifacts.keep_outputs(claim, str(folder), DONE, control=control, limits=terms)

    assert result.outcome is Outcome.COMPLETED
    assert len({one.path for one in result.artifacts}) == 2
    assert not any("s3cret" in one.path for one in result.artifacts)


def test_a_deep_path_is_kept_up_to_what_a_database_can_hold(
    folder: Path, tmp_path: Path, terms: ArtifactLimits
) -> None:
    terms = replace(terms, store=ArtifactStore(f"file://{tmp_path}/kept"))
    part = "\u00fc" * 90
    deep = folder / "deep" / "/".join([part] * 10)
    deep.mkdir(parents=True)
    (deep / "file").write_text("kept")
    deeper = folder / "deeper" / "/".join([part] * 15)
    deeper.mkdir(parents=True)
    (deeper / "file").write_text("kept")

    near, far = kept(folder, terms, "deep"), kept(folder, terms, "deeper")

    (created,) = near.artifacts
    assert fetch_artifact(created, tmp_path / "got").read_text() == "kept"
    assert (far.outcome, far.retryable) == (Outcome.FAILED, False)
    assert "has a path of 2,726 bytes; at most 2,000 can be kept" in (far.error or "")


def test_too_many_and_too_large_are_refused_with_what_to_do(folder: Path, terms: ArtifactLimits) -> None:
    for number in range(11):
        (folder / f"n{number}").write_text("x")
    (folder / "large").write_bytes(b"x" * 1_001)

    many, large = kept(folder, terms, "n*"), kept(folder, terms, "large")

    assert "is more than 10 files" in (many.error or "")
    assert "COORD_ARTIFACTS_MOST" in (many.error or "")
    assert "larger than 1000 bytes in all" in (large.error or "") or "larger than 1 KiB in all" in (large.error or "")
    assert {many.outcome, large.outcome} == {Outcome.FAILED}


def test_what_did_not_complete_leaves_nothing(folder: Path, terms: ArtifactLimits) -> None:
    failed = replace(DONE, outcome=Outcome.FAILED, error="no")

    assert kept(folder, terms, "report.md", result=failed) == failed


def test_a_store_that_is_away_for_a_moment_is_waited_for(
    folder: Path, terms: ArtifactLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []
    keep = ArtifactStore.keep

    def sometimes(self: ArtifactStore, *given: object, **more: object):
        tries.append(1)
        return keep(ArtifactStore("memory://there") if len(tries) > 2 else self, *given, **more)

    (folder.parent / "in the way").write_text("")
    away = ArtifactLimits(ArtifactStore(f"file://{folder.parent}/in the way/x"), most=10, bytes=12)
    monkeypatch.setattr(ArtifactStore, "keep", sometimes)
    monkeypatch.setattr(artifacts, "_RETRIES_AFTER", (0.01, 0.01, 0.01))

    assert kept(folder, away, "report.md").outcome is Outcome.COMPLETED

    assert len(tries) == 3


def test_a_store_that_stays_away_fails_the_attempt_and_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "in the way").write_text("")
    away = ArtifactLimits(ArtifactStore(f"file://{folder.parent}/in the way/x"), most=10, bytes=1_000)
    monkeypatch.setattr(artifacts, "_RETRIES_AFTER", (0.01,))

    result = kept(folder, away, "report.md")

    assert (result.outcome, result.retryable) == (Outcome.FAILED, True)
    assert "The artifact report.md cannot be stored at file://" in (result.error or "")


def test_a_job_that_is_stopped_meanwhile_is_stopped(folder: Path, terms: ArtifactLimits) -> None:
    result = kept(folder, terms, "report.md", stopped=True)

    assert (result.outcome, result.artifacts) == (Outcome.CANCELED, ())


def test_a_job_without_a_folder_gets_one_that_outlives_it_and_then_goes(tmp_path: Path) -> None:
    wants = claim_of({"shell": "true"}, options={"outputs": ["x"]}, timeout=timedelta(seconds=1))

    created: list[Path] = []

    def proceed(attempt: RunningAttempt) -> AttemptEnd:
        created.append(Path(str(attempt.claim.workdir)))
        (created[0] / "x").write_text("x")
        return DONE

    with Control(scratch=tmp_path) as control:
        make_job_folder(RunningAttempt(wants, wants, wants, control, is_ours=lambda: True), proceed)

    assert not created[0].exists()


@pytest.mark.parametrize("changes", [{"workdir": "/"}, {"options": {"checkout": {"kind": "git-worktree"}}}])
def test_a_job_with_a_folder_or_a_worktree_gets_no_other(tmp_path: Path, changes: dict[str, Any]) -> None:
    claim = claim_of({"shell": "true"}, **changes)
    workdirs: list[str | None] = []

    def proceed(attempt: RunningAttempt) -> AttemptEnd:
        workdirs.append(attempt.claim.workdir)
        return DONE

    with Control(scratch=tmp_path) as control:
        make_job_folder(RunningAttempt(claim, claim, claim, control, is_ours=lambda: True), proceed)

    assert workdirs == [changes.get("workdir")]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_link_to_a_sibling_whose_name_begins_alike_is_refused(
    folder: Path, terms: ArtifactLimits, tmp_path: Path, link: str
) -> None:
    secret = tmp_path / f"{folder.name}2" / "key"
    secret.parent.mkdir()
    secret.write_text("secret")
    (folder / "x").symlink_to(secret if link == "file" else secret.parent)

    result = kept(folder, terms, "x")

    assert (result.outcome, result.retryable, result.artifacts) == (Outcome.FAILED, False, ())
    assert "is outside of the job's folder" in (result.error or "")


def test_the_limit_of_bytes_is_for_all_outputs_together(folder: Path, terms: ArtifactLimits) -> None:
    for name in ("one", "two"):
        (folder / name).write_bytes(b"x" * 501)

    alone, together = kept(folder, terms, "one"), kept(folder, terms, "one", "two")

    assert (alone.outcome, together.outcome, together.artifacts) == (Outcome.COMPLETED, Outcome.FAILED, ())
    assert "COORD_ARTIFACTS_BYTES" in (together.error or "")


def test_what_a_store_loses_at_the_end_of_a_file_is_not_counted_again(
    folder: Path, terms: ArtifactLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([Unavailable("away"), Unavailable("away")])
    keep = ArtifactStore.keep

    def loses(self: ArtifactStore, *given: object, **more: object):
        artifact = keep(self, *given, **more)
        if (failure := next(failures, None)) is not None:
            raise failure
        return artifact

    monkeypatch.setattr(ArtifactStore, "keep", loses)
    monkeypatch.setattr(artifacts, "_RETRIES_AFTER", (0.01, 0.01))

    result = kept(folder, replace(terms, bytes=12), "report.md")

    assert (result.outcome, [one.size for one in result.artifacts]) == (Outcome.COMPLETED, [9])


def test_a_file_with_holes_is_too_large_before_anything_is_copied(
    folder: Path, terms: ArtifactLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (folder / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    monkeypatch.setattr(ArtifactStore, "keep", None)  # no caller

    assert "larger than" in (kept(folder, terms, "sparse").error or "")


@pytest.mark.parametrize("bad", ["build/zz.txt", "pipe"])
def test_what_was_copied_before_a_refusal_is_deleted(folder: Path, tmp_path: Path, bad: str) -> None:
    here = ArtifactLimits(ArtifactStore(str(tmp_path / "kept")), most=10, bytes=1_000)
    (folder / "build" / "zz.txt").write_bytes(b"x" * 1_001)
    os.mkfifo(folder / "pipe")

    assert kept(folder, here, "report.md", bad).outcome is Outcome.FAILED
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]


def test_folders_without_end_are_a_sentence(folder: Path, terms: ArtifactLimits) -> None:
    here, levels = os.open(folder, os.O_RDONLY), 1_500
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)

    try:
        for wanted in ("d", "**/*.txt"):
            result = kept(folder, terms, wanted)
            assert result.outcome is Outcome.FAILED
            assert "\n" not in (result.error or "")
    finally:
        untrusted_files.delete_quietly(str(folder / "d"))
    assert not (folder / "d").exists()
