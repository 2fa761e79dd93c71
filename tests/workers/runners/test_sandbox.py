"""Test what a confined job cannot do, and what it can still do. Real processes under the kernel's own rules."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordination.base.errors import SettingsError
from coordination.domain.tasks.attempts import Outcome
from tests.support.jobs import Bench
from tests.support.refusals import refuses
from tests.support.services import missing, without_landlock
from workers.runners import sandbox_exec
from workers.runners.registry import Runners
from workers.runners.sandbox_policy import SandboxPolicy


@pytest.fixture(autouse=True)
def _kernel() -> None:
    if not sandbox_exec.version():
        without_landlock()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def confined(tmp_path: Path) -> Iterator[Bench]:
    (tmp_path / "cache").mkdir()
    sandbox = SandboxPolicy(tmp_path / "scratch", [str(tmp_path / "cache")], required=True)
    runners = Runners(sandbox=sandbox)
    bench = Bench(runners, tmp_path / "scratch")
    yield bench
    runners.close()
    assert bench.left_behind() == []


def shell(bench: Bench, command: str, place: Path) -> tuple[Outcome, str]:
    result = bench.run({"shell": command}, workdir=str(place))
    return result.outcome, f"{result.output or ''}{result.log or ''}"


def test_it_changes_its_folder_and_its_own_files(confined: Bench, place: Path) -> None:
    outcome, output = shell(
        confined,
        "echo 1 > a && mkdir -p b/c && mv a b/c/d && rm -r b && echo y > /dev/null && "
        'echo {} >> "$COORD_COSTS" && echo x > "$TMPDIR/x" && mktemp && echo 2 > "$TMPDIR/../../../cache/z"',
        place,
    )

    assert outcome is Outcome.COMPLETED, output
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        "echo 1 > ../outside",
        "mkdir ../outside",
        "ln -s /etc ../outside",
        "mv kept ../outside",
        "rm ../precious",
        "echo 1 > ../precious",
        "echo 1 >> ../precious",
        "truncate -s 0 ../precious",
        "mv ../precious ../outside",
        "ln -s .. up && echo 1 > up/precious",
        "ln ../precious here && echo 1 > here",
        "setsid sh -c 'echo 1 > ../precious' && cat ../outside",
        "(setsid sh -c 'echo 1 > ../precious' &) ; sleep 0.2; exit 1",
        f"{shlex.quote(sys.executable)} -c \"import os; os.remove('../precious')\"",
    ],
)
def test_it_changes_nothing_else(confined: Bench, place: Path, command: str) -> None:
    precious = place.parent / "precious"
    precious.write_text("all of it")
    (place / "kept").write_text("mine")

    outcome, output = shell(confined, command, place)

    assert outcome is Outcome.FAILED, output
    assert precious.read_text() == "all of it"
    assert not (place.parent / "outside").exists()


def test_it_reads_what_it_could_read(confined: Bench, place: Path) -> None:
    (place.parent / "precious").write_text("all of it")

    assert shell(confined, "cat ../precious", place) == (Outcome.COMPLETED, "all of it")


def test_it_gains_no_privileges(confined: Bench, place: Path) -> None:
    _, output = shell(confined, "grep NoNewPrivs /proc/self/status", place)

    assert output.split() == ["NoNewPrivs:", "1"]


def test_it_reaches_nobody_else_with_a_signal(confined: Bench, place: Path) -> None:
    if sandbox_exec.version() < 6:
        pytest.skip("the kernel cannot keep signals in")
    with subprocess.Popen(["sleep", "600"]) as other_process:
        outcome, output = shell(confined, f"kill -9 {other_process.pid}", place)
        alive = other_process.poll() is None
        other_process.kill()

    assert outcome is Outcome.FAILED, output
    assert alive


@pytest.mark.parametrize("where", ["repository", "repository/below", "worktree"])
def test_it_commits_to_the_repository_that_it_works_in(confined: Bench, tmp_path: Path, where: str) -> None:
    repository = tmp_path / "repository"
    (repository / "below").mkdir(parents=True)
    me = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (
        ["init", "-q"],
        [*me, "commit", "-q", "--allow-empty", "-m", "first"],
        ["worktree", "add", "-q", "../worktree"],
    ):
        subprocess.run(["git", *command], cwd=repository, check=True)

    commit = "git -c user.name=a -c user.email=a@example.org commit -q -m second"
    outcome, output = shell(confined, f"touch a && git add a && {commit} && git log --format=%s", tmp_path / where)

    assert (outcome, output.split()) == (Outcome.COMPLETED, ["second", "first"])


@pytest.mark.parametrize(
    "prepare",
    [
        "ln -s .. .git",
        "rm -rf .git; ln -s .. .git",
        'echo "gitdir: .." > .git',
        (
            'mkdir -p fake/worktrees/x && echo "$PWD/.git" > fake/worktrees/x/gitdir && echo "../../../.." > '
            'fake/worktrees/x/commondir && echo "gitdir: fake/worktrees/x" > .git'
        ),
        'mkdir -p worktrees/x && ln -s .. up && echo "gitdir: up/worktrees/x" > .git',
    ],
)
def test_what_a_job_leaves_behind_does_not_let_the_next_one_out(confined: Bench, place: Path, prepare: str) -> None:
    (place.parent / "worktrees" / "x").mkdir(parents=True)
    assert shell(confined, prepare, place)[0] is Outcome.COMPLETED

    shell(confined, "echo 1 > ../outside; echo 1 > ../worktrees/x/gitdir", place)

    assert not (place.parent / "outside").exists()
    assert not (place.parent / "worktrees" / "x" / "gitdir").exists()


def test_the_record_of_a_worktree_does_not_name_another_repository(confined: Bench, tmp_path: Path) -> None:
    record = tmp_path / "repository" / ".git" / "worktrees" / "x"
    record.mkdir(parents=True)
    (tmp_path / "worktree").mkdir()
    (tmp_path / "worktree" / ".git").write_text(f"gitdir: {record}\n")
    (record / "gitdir").write_text(f"{tmp_path}/worktree/.git\n")
    (record / "commondir").write_text("../../../..\n")  # a job may write this

    shell(confined, "echo 1 > ../outside; echo 1 > ../repository/.git/inside", tmp_path / "worktree")

    assert not (tmp_path / "outside").exists()
    assert (tmp_path / "repository" / ".git" / "inside").exists()


def test_a_folder_that_has_become_a_link_is_not_worked_in(confined: Bench, place: Path) -> None:
    (place / "sub").symlink_to(place.parent)

    outcome, output = shell(confined, "echo 1 > outside", place / "sub")

    assert outcome is Outcome.FAILED
    assert "cannot be made writable: Too many levels of symbolic links" in output
    assert not (place.parent / "outside").exists()


def test_the_jobs_variables_load_nothing_before_it_is_confined(confined: Bench, place: Path) -> None:
    if shutil.which("cc") is None:
        missing("C compiler", "no program cc")
    source = place / "evil.c"
    source.write_text(
        '#include <stdio.h>\n__attribute__((constructor)) static void x(void) { fopen("../outside", "w"); }\n'
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", place / "evil.so", source], check=True)

    result = confined.run(
        {"shell": 'echo "$LD_PRELOAD"', "env": {"LD_PRELOAD": str(place / "evil.so")}}, workdir=str(place)
    )

    assert result.output == str(place / "evil.so")
    assert not (place.parent / "outside").exists()


def test_python_jobs_are_confined_too(confined: Bench, place: Path) -> None:
    (place / "job.py").write_text("def write(path):\n    open(path, 'w').write('1')\n    return path\n")
    job = {"python": "job:write"}

    inside = confined.run(job | {"args": {"path": "inside"}}, workdir=str(place), python_path=(str(place),))
    outside = confined.run(job | {"args": {"path": "../outside"}}, workdir=str(place), python_path=(str(place),))

    assert inside.outcome is Outcome.COMPLETED, inside.error
    assert outside.outcome is Outcome.FAILED
    assert "PermissionError" in (outside.error or "")
    assert not (place.parent / "outside").exists()


def test_a_python_job_without_a_folder_has_only_its_own(confined: Bench, place: Path) -> None:
    (place / "job.py").write_text("def write(path):\n    open(path, 'w').write('1')\n    return path\n")

    inside = confined.run({"python": "job:write", "args": {"path": "inside"}}, python_path=(str(place),))
    outside = confined.run({"python": "job:write", "args": {"path": str(place / "outside")}}, python_path=(str(place),))

    assert inside.outcome is Outcome.COMPLETED, inside.error
    assert "PermissionError" in (outside.error or "")
    assert [path.name for path in place.iterdir()] == ["job.py"]


def test_temporary_files_go_with_the_job(confined: Bench, place: Path) -> None:
    shell(confined, 'mkdir "$TMPDIR/deep" && echo x > "$TMPDIR/deep/x"', place)

    assert [path.name for path in confined.scratch.iterdir() if path.name.startswith("tmp-")] == []


def test_a_program_that_is_not_there_is_said_so(confined: Bench, place: Path) -> None:
    result = confined.run({"agent": "custom", "prompt": "x", "command": ["/no/such/program"]}, workdir=str(place))

    assert result.outcome is Outcome.FAILED
    assert "/no/such/program" in (result.error or "")


WITHOUT = """
import sys
sys.path.insert(0, {folder!r})
import sandbox_exec
sandbox_exec.version = lambda: {version}
sandbox_exec.can_refuse_calls = lambda: {refuses}
sys.argv[1:] = [{order!r}, "/bin/sh", "-c", "echo ran"]
sandbox_exec.main()
"""


@pytest.mark.parametrize(("version", "refuses", "said"), [(0, True, "Landlock"), (6, False, "seccomp")])
@pytest.mark.parametrize(("required", "printed"), [(True, ""), (False, "ran\n")])
def test_without_the_kernels_help_it_is_not_begun_where_that_is_required(
    *, required: bool, printed: str, version: int, refuses: bool, said: str
) -> None:
    version = min(version, sandbox_exec.version())
    order = json.dumps({"write": [], "required": required, "env": {}})
    folder = str(Path(sandbox_exec.__file__).parent)
    program = WITHOUT.format(folder=folder, order=order, version=version, refuses=refuses)

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout == printed
    assert (done.returncode, said in done.stderr) == ((sandbox_exec.NOT_STARTED, True) if required else (0, False))


@pytest.mark.parametrize(("version", "seccomp"), [(0, True), (2, True), (6, False)])
def test_a_worker_does_not_begin_where_it_is_required_and_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: int, *, seccomp: bool
) -> None:
    monkeypatch.setattr(sandbox_exec, "version", lambda: version)
    monkeypatch.setattr(sandbox_exec, "can_refuse_calls", lambda: seccomp)

    SandboxPolicy(tmp_path).check()
    with refuses(SettingsError, field="COORD_REQUIRE_SANDBOX"):
        SandboxPolicy(tmp_path, required=True).check()
