"""Test what a job in the strict sandbox sees and reaches, and how it ends. Real namespaces."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from coordination.base.errors import SettingsError
from coordination.domain.tasks.attempts import Outcome
from tests.support.jobs import Bench
from tests.support.refusals import refuses
from tests.support.strict import needs_bubblewrap, strict_sandbox
from workers.runners import orphan_reaper, sandbox_exec, untrusted_files
from workers.runners.base import StopReason
from workers.runners.namespaces import Namespaces
from workers.runners.registry import Runners
from workers.runners.sandbox_policy import SandboxPolicy


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Bench]:
    for name in ("cache", "models", "home"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    sandbox = strict_sandbox(
        tmp_path / "scratch", [str(tmp_path / "cache")], read=[str(tmp_path / "models")], hide=[str(tmp_path / "home")]
    )
    runners = Runners(sandbox=sandbox)
    bench = Bench(runners, tmp_path / "scratch")
    yield bench
    runners.close()
    assert bench.left_behind() == []


def shell(bench: Bench, command: str, place: Path) -> tuple[Outcome, str]:
    result = bench.run({"shell": command}, workdir=str(place))
    return result.outcome, f"{result.output or ''}{result.log or ''}"


def python(program: str) -> str:
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}"


def git(*arguments: str, folder: Path) -> None:
    me = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *me, *arguments], cwd=folder, check=True)


def test_it_changes_its_folder_and_its_own_files(strict: Bench, place: Path) -> None:
    outcome, output = shell(
        strict,
        "echo 1 > a && mkdir -p b/c && mv a b/c/d && rm -r b && echo y > /dev/null && "
        'echo {} >> "$COORD_COSTS" && echo x > "$TMPDIR/x" && mktemp && test -s "$COORD_INPUT"',
        place,
    )

    assert outcome is Outcome.COMPLETED, output
    assert list(place.iterdir()) == []


def test_files_outside_are_invisible(strict: Bench, place: Path) -> None:
    for name in (".ssh", "neighbour"):
        (place.parent / name).mkdir()
        (place.parent / name / "key").write_text("secret")
    (place / "link").symlink_to("../.ssh/key")

    _, output = shell(
        strict,
        f"cat link ../neighbour/key {place.parent}/home/file /etc/shadow 2>&1; ls -A .. /tmp /srv /var 2>&1; "
        f"ls -A {strict.scratch}; true",
        place,
    )

    assert "secret" not in output
    assert output.count("No such file") >= 5, output
    assert not {"neighbour", ".ssh", "home"} & set(output.split())


def test_of_the_configuration_it_sees_no_keys_and_nothing_that_is_hidden(tmp_path: Path, place: Path) -> None:
    runners = Runners(sandbox=strict_sandbox(tmp_path / "scratch", hide=["/etc/hosts", "/usr/share"]))
    bench = Bench(runners, tmp_path / "scratch")

    _, output = shell(
        bench, "ls -d /etc/ssl/private /etc/pki/tls/private /etc/ssh; cat /etc/hosts; ls /usr/share", place
    )
    runners.close()

    assert output.count("No such file") == 3
    assert "/etc/hosts: Permission denied" in output
    assert len(output.strip().splitlines()) == 4, output


def test_it_reads_and_changes_what_is_named(strict: Bench, place: Path) -> None:
    outcome, output = shell(
        strict, "cat ../models/file ../cache/file && echo kept > ../cache/x && ! echo bad > ../models/x", place
    )

    assert outcome is Outcome.COMPLETED, output
    assert output.startswith("modelscache")
    assert (place.parent / "cache" / "x").read_text() == "kept\n"
    assert not (place.parent / "models" / "x").exists()


@pytest.mark.parametrize(
    "command",
    [
        "echo 1 > ../outside",
        "echo 1 > ../precious",
        "rm ../precious",
        "ln -s .. up && echo 1 > up/precious",
        "mkdir -p /usr/outside",
        f"echo 1 > {sys.prefix}/outside",
        "python3 -c 'import os; os.remove(\"../precious\")'",
    ],
)
def test_it_changes_nothing_else(strict: Bench, place: Path, command: str) -> None:
    precious = place.parent / "precious"
    precious.write_text("all of it")

    shell(strict, command, place)

    assert precious.read_text() == "all of it"
    assert not (place.parent / "outside").exists()
    assert not Path(sys.prefix, "outside").exists()
    assert not Path("/usr/outside").exists()


def test_folders_for_temporary_files_are_private(strict: Bench, place: Path) -> None:
    name, other = uuid4().hex, uuid4().hex
    private = [folder for folder in (Path("/tmp"), Path("/dev/shm")) if not place.is_relative_to(folder)]
    for folder in private:
        (folder / other).touch()
    try:
        outcome, output = shell(
            strict, " && ".join(f"ls -A {folder} && echo x > {folder}/{name}" for folder in private), place
        )
    finally:
        for folder in private:
            (folder / other).unlink()

    assert outcome is Outcome.COMPLETED
    assert other not in output
    assert not any((folder / name).exists() for folder in private)


@pytest.mark.parametrize("namespace", ["pid", "mnt", "ipc", "uts"])
def test_it_has_namespaces_of_its_own(strict: Bench, place: Path, namespace: str) -> None:
    _, output = shell(strict, f"readlink /proc/self/ns/{namespace}", place)

    assert output.startswith(namespace)
    assert output != str(Path(f"/proc/self/ns/{namespace}").readlink())


def test_it_sees_no_other_processes(strict: Bench, place: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as other_process:
        _, output = shell(strict, f"ls /proc; kill -9 {other_process.pid}", place)
        alive = other_process.poll() is None
        other_process.kill()

    assert alive
    assert len([name for name in output.split() if name.isdigit()]) < 10


def test_it_is_confined_by_the_kernel_too(strict: Bench, place: Path) -> None:
    _, output = shell(strict, "grep -E '^(NoNewPrivs|Seccomp|CapEff):' /proc/self/status", place)
    words = dict(line.split(":\t") for line in output.splitlines() if ":\t" in line)

    assert (words["NoNewPrivs"], words["Seccomp"]) == ("1", "2")
    assert [bit for bit in (12, 16, 17, 19, 21, 22, 27) if int(words["CapEff"], 16) >> bit & 1] == []


BY_HANDLE = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
mount = os.open({mount!r}, os.O_RDONLY)
found = libc.open_by_handle_at(mount, {handle!r}, os.O_RDONLY)
print(os.read(found, 100) if found >= 0 else os.strerror(ctypes.get_errno()))
"""


def test_no_file_is_opened_by_its_number(strict: Bench, place: Path) -> None:
    """Refuse it: root could open each file of a file system of which it sees one folder."""
    precious = place.parent / "precious"
    precious.write_text("secret")
    handle, number = ctypes.create_string_buffer(136), ctypes.c_int()
    handle[:4] = (128).to_bytes(4, "little")
    libc = ctypes.CDLL(None, use_errno=True)
    named = libc.name_to_handle_at(-100, os.fsencode(precious), handle, ctypes.byref(number), 0)

    assert named == 0
    _, output = shell(strict, python(BY_HANDLE.format(mount=str(place), handle=handle.raw)), place)

    assert "secret" not in output
    assert "not permitted" in output


@pytest.mark.parametrize("where", ["repository", "repository/below", "worktree"])
def test_it_commits_to_the_repository_that_it_works_in(strict: Bench, tmp_path: Path, where: str) -> None:
    repository = tmp_path / "repository"
    (repository / "below").mkdir(parents=True)
    (repository / "file").write_text("kept")
    (repository / "below" / "file").write_text("kept")
    git("init", "-q", folder=repository)
    git("add", "-A", folder=repository)
    git("commit", "-q", "-m", "first", folder=repository)
    git("worktree", "add", "-q", "../worktree", folder=repository)

    commit = "git -c user.name=a -c user.email=a@example.org commit -q -m second"
    command = f"git status --porcelain && touch a && git add -A && {commit} && git show --format=%s --name-status"
    outcome, output = shell(strict, command, tmp_path / where)

    added = "below/a" if where.endswith("below") else "a"
    assert (outcome, output.split()) == (Outcome.COMPLETED, ["second", "A", added]), output


def test_a_repository_of_the_whole_home_folder_is_not_shown(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    git("init", "-q", folder=tmp_path)
    (tmp_path / "precious").write_text("secret")
    runners = Runners(sandbox=strict_sandbox(tmp_path / "scratch"))
    bench = Bench(runners, tmp_path / "scratch")

    _, output = shell(bench, "cat ../precious; ls -A ..; echo bad > ../.git/new", place)
    runners.close()

    assert "secret" not in output
    assert ".git" not in output.split()
    assert not (tmp_path / ".git" / "new").exists()


def test_what_is_hidden_within_its_folder_is_empty(tmp_path: Path, place: Path) -> None:
    home, database = place / "home", place / "store.db"
    (home / "scratch").mkdir(parents=True)
    (home / "token").write_text("secret")
    database.write_text("secret")
    sandbox = strict_sandbox(home / "scratch" / "w", hide=[str(home), str(database)])
    runners = Runners(sandbox=sandbox)
    bench = Bench(runners, home / "scratch" / "w")

    _, output = shell(bench, 'ls home; cat home/token store.db; echo x > "$TMPDIR/x"; echo bad > home/new', place)
    runners.close()

    assert "secret" not in output
    assert database.read_text() == "secret"
    assert sorted(path.name for path in home.iterdir()) == ["scratch", "token"]


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 7", 7), ("kill -9 $$", 137), ("kill -SEGV $$", 139), ("exec /no/such", 127), ("exit 126", 126)],
)
def test_the_exit_status_is_the_jobs(strict: Bench, place: Path, command: str, code: int) -> None:
    result = strict.run({"shell": command}, workdir=str(place))

    assert (result.outcome, result.exit_code) == (Outcome.FAILED, code)


def test_a_job_that_is_told_to_end_tidies_up(strict: Bench, place: Path) -> None:
    job = strict.start(
        {"shell": "trap 'echo bye > said; exit 3' TERM; echo ready; while :; do sleep 0.05; done"}, workdir=str(place)
    )
    job.stop(StopReason.CANCELED)

    result = job.end()

    assert (result.outcome, result.exit_code) == (Outcome.CANCELED, 3)  # the signal has not ended bwrap
    assert (place / "said").read_text() == "bye\n"


ESCAPING = """
import os, resource
most = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        resource.setrlimit(resource.RLIMIT_RTTIME, (most, most))
        os.closerange(0, 100)
        os.execve("/bin/sleep", ["sleep", "{seconds}"], {{}})
    os._exit(0)
os.wait()
while True:
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    if any(open(f"/proc/{{pid}}/cmdline", "rb").read().startswith(b"sleep") for pid in pids):
        break
"""


def test_what_gets_rid_of_all_marks_ends_with_it_all_the_same(strict: Bench, place: Path) -> None:
    seconds = str(600_000 + uuid4().int % 100_000)

    outcome, output = shell(strict, python(ESCAPING.format(seconds=seconds)), place)

    assert outcome is Outcome.COMPLETED, output
    assert not commands_with(seconds)


def commands_with(word: str) -> list[str]:
    """Return the processes of this machine with that word in their command."""
    processes = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if word.encode() in words:
            processes.append(entry.parent.name)
    return processes


def test_killing_its_leader_ends_all_of_it(strict: Bench, place: Path) -> None:
    seconds = str(600_000 + uuid4().int % 100_000)
    job = strict.start({"shell": f"setsid sleep {seconds} & echo ready; sleep {seconds}"}, workdir=str(place))
    assert job.moved.wait(60)
    os.kill(job.processes[0].pid, signal.SIGKILL)

    result = job.end()

    assert (result.outcome, result.exit_code) == (Outcome.FAILED, -signal.SIGKILL)
    assert not commands_with(seconds)


def test_its_processes_carry_the_marks_that_the_worker_looks_for(strict: Bench, place: Path) -> None:
    job = strict.start({"shell": "echo ready; sleep 600"}, workdir=str(place))
    assert job.moved.wait(60)
    remaining = orphan_reaper.find([os.fsencode(job.processes[0].marker)])
    sessions = {os.getsid(pid) for pid in remaining}
    job.control.stop(StopReason.CANCELED)
    job.end()

    assert len(remaining) >= 3  # bwrap, its first process inside, the job
    assert sessions == {job.processes[0].pid}


def test_a_program_that_is_not_seen_is_said_so(strict: Bench, place: Path) -> None:
    program = place.parent / "tool"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)

    result = strict.run({"agent": "custom", "prompt": "x", "command": [str(program)]}, workdir=str(place))

    assert (result.outcome, result.exit_code) == (Outcome.FAILED, sandbox_exec.NOT_STARTED)
    assert "what it needs has to be named in COORD_SANDBOX_READ" in (result.error or "")


def test_a_link_shows_nothing_that_it_leads_to(strict: Bench, place: Path) -> None:
    (place.parent / "secrets").mkdir()
    (place.parent / "secrets" / "key").write_text("secret")
    (place / "library").symlink_to(place.parent / "secrets")
    (place / "job.py").write_text("def look(path):\n    return open(path).read()\n")
    job = {"python": "job:look", "args": {"path": "library/key"}}

    result = strict.run(job, workdir=str(place), python_path=(str(place), str(place / "library")))

    assert (result.outcome, "FileNotFoundError" in (result.error or "")) == (Outcome.FAILED, True), result.error


def test_python_jobs_are_in_namespaces_too(strict: Bench, place: Path) -> None:
    (place.parent / "precious").write_text("secret")
    (place / "job.py").write_text(
        "import os\n"
        "def look(path):\n    return open(path).read()\n"
        "def where():\n    return [os.readlink('/proc/self/ns/pid'), os.getpid()]\n"
    )
    job = {"workdir": str(place), "python_path": (str(place),)}

    first = strict.run({"python": "job:where"}, **job)
    again = strict.run({"python": "job:where"}, **job)
    outside = strict.run({"python": "job:look", "args": {"path": "../precious"}}, **job)

    assert first.outcome is Outcome.COMPLETED, first.error
    assert first.output[0] != str(Path("/proc/self/ns/pid").readlink())
    assert first.output == again.output  # one warm interpreter
    assert "FileNotFoundError" in (outside.error or "")


def test_a_folder_that_has_become_a_link_is_not_worked_in(strict: Bench, place: Path) -> None:
    (place / "sub").symlink_to(place.parent)

    result = strict.run({"shell": "echo 1 > outside"}, workdir=str(place / "sub"))

    assert result.outcome is Outcome.FAILED
    assert "Too many levels of symbolic links" in (result.error or "")
    assert not (place.parent / "outside").exists()


def test_a_folder_that_becomes_something_else_meanwhile_is_not_worked_in(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "sub").mkdir()
    sandbox = strict_sandbox(tmp_path / "scratch")
    (tmp_path / "scratch").mkdir()
    temporary = sandbox.make_temporary()
    looked_up = sandbox.around(
        ["touch", "here"], {}, folder=str(place / "sub"), temporary=temporary, write=[str(place / "sub")]
    )
    (place / "sub").rmdir()
    (place / "sub").symlink_to(tmp_path)

    done = subprocess.run(
        looked_up.command, pass_fds=[looked_up.status or 0], capture_output=True, text=True, check=False
    )
    os.close(looked_up.status or 0)
    untrusted_files.delete_quietly(temporary)

    assert (done.returncode, "has become something else" in done.stderr) == (sandbox_exec.NOT_STARTED, True), (
        done.stderr
    )
    assert not (tmp_path / "here").exists()


BROKEN = "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"


@pytest.fixture
def broken(tmp_path: Path) -> Namespaces:
    program = tmp_path / "bwrap"
    program.write_text(BROKEN)
    program.chmod(0o755)
    return Namespaces(str(program))


def test_without_namespaces_nothing_is_started(tmp_path: Path, place: Path, broken: Namespaces) -> None:
    needs_bubblewrap()
    runners = Runners(sandbox=SandboxPolicy(tmp_path / "scratch", namespaces=broken))
    bench = Bench(runners, tmp_path / "scratch")

    result = bench.run({"shell": "touch began"}, workdir=str(place))
    runners.close()

    assert (result.outcome, result.exit_code) == (Outcome.FAILED, sandbox_exec.NOT_STARTED)
    assert "No permissions to create new namespace" in (result.error or "")
    assert list(place.iterdir()) == []


def test_a_worker_does_not_begin_where_no_namespaces_can_be_made(tmp_path: Path, broken: Namespaces) -> None:
    needs_bubblewrap()
    strict_sandbox(tmp_path).check()
    with refuses(SettingsError, field="COORD_SANDBOX"):
        SandboxPolicy(tmp_path, namespaces=broken).check()
