"""Test the sandboxes for a user without privileges, who needs a user namespace for the strict one.

This needs root; without root, the other tests run as such a user already.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import missing
from tests.support.sources import ROOT
from tests.support.strict import needs_bubblewrap

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")

NOBODY = 65_534

RUN = """
import json, os, select, sys, uuid
from pathlib import Path
from workers.runners.namespaces import Namespaces
from workers.runners.process import Launcher
from workers.runners.sandbox_policy import SandboxPolicy
asked = json.loads(sys.argv[1])
namespaces = Namespaces("/usr/bin/bwrap" if "bwrap" not in asked else asked["bwrap"], network=asked["network"])
sandbox = SandboxPolicy(
    Path(asked["scratch"]), hide=asked["hide"], required=True, namespaces=namespaces if asked["strict"] else None
)
sandbox.check()
launcher = Launcher(sandbox=sandbox)
reading, writing = os.pipe()
process = launcher.start(
    ["/bin/sh", "-c", asked["command"]],
    marker="COORD_ATTEMPT_ID",
    environment={"COORD_ATTEMPT_ID": f"{uuid.uuid4()}.1.x", "PATH": "/usr/bin:/bin"},
    folder=asked["folder"],
    stdout=writing,
    stderr=writing,
)
os.close(writing)
said = b""
while b"ready" not in said and (more := os.read(reading, 4096)):
    said += more
seen = len(process.others())
if b"ready" in said:
    process.terminate()
waiter = select.poll()
waiter.register(process.exit_fd)
waiter.poll()
code = process.end()
while more := os.read(reading, 4096):
    said += more
launcher.close()
print(json.dumps({"code": code, "said": said.decode(), "seen": seen, "uid": os.getuid()}))
"""


@dataclass(frozen=True, slots=True)
class Place:
    """The files of the user nobody: a folder to work in, a scratch folder, and a Python with our sources."""

    python: str
    sources: Path
    folder: Path

    def run(self, command: str, *, strict: bool, network: bool = True, hide: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the result of a command in the sandbox."""
        request = {
            "command": command,
            "strict": strict,
            "network": network,
            "hide": [str(self.folder / name) for name in hide],
            "folder": str(self.folder / "place"),
            "scratch": str(self.folder / "scratch"),
            "bwrap": shutil.which("bwrap"),
        }
        done = subprocess.run(
            [self.python, "-B", "-c", RUN, json.dumps(request)],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            cwd="/",
            env={"PYTHONPATH": str(self.sources), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        assert result["uid"] == NOBODY
        return result


def _python() -> str:
    """Use a Python that nobody cannot start."""
    names = ("python3", "python3.13", "python3.12", "python3.11")
    everywhere = [shutil.which(name, path="/usr/local/bin:/usr/bin") for name in names]
    for result in (os.path.realpath(sys.executable), *filter(None, everywhere)):
        ask = [result, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        with contextlib.suppress(PermissionError):
            done = subprocess.run(ask, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", timeout=60, check=False)
            if done.returncode == 0:
                return result
    return missing("Python for nobody", "all of them lie where only root may look")


@pytest.fixture(scope="module")
def sources() -> Iterator[Path]:
    """Provide our packages in a folder that nobody cannot read."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    for name in ("coordination", "workers"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def nobody(sources: Path) -> Iterator[Place]:
    needs_bubblewrap()
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    for name in ("place", "scratch", "home", "deep"):
        (folder / name).mkdir()
        os.chown(folder / name, NOBODY, NOBODY)
    for name in ("home/store.db", "precious", "deep/precious"):
        (folder / name).write_text("secret")
        os.chown(folder / name, NOBODY, NOBODY)
    os.chown(folder, NOBODY, NOBODY)
    yield Place(_python(), sources, folder)
    shutil.rmtree(folder)


@pytest.mark.parametrize("strict", [False, True])
def test_it_works_in_its_folder_and_changes_nothing_else(nobody: Place, *, strict: bool) -> None:
    command = "echo 1 > a; echo bad > ../precious; rm ../precious; echo bad > ../outside; rm -r ../home; exit 7"

    result = nobody.run(command, strict=strict)

    assert result["code"] == 7
    assert (nobody.folder / "place" / "a").read_text() == "1\n"
    assert (nobody.folder / "precious").read_text() == "secret"
    assert (nobody.folder / "home" / "store.db").exists()
    assert not (nobody.folder / "outside").exists()


@pytest.mark.parametrize("strict", [False, True])
def test_it_does_not_read_what_is_hidden(nobody: Place, *, strict: bool) -> None:
    result = nobody.run("cat ../home/store.db; cat ../precious; true", strict=strict, hide=("home",))

    assert result["said"].count("secret") == (0 if strict else 1)


def test_where_a_folder_cannot_be_listed_only_what_is_named_is_read(nobody: Place) -> None:
    os.chown(nobody.folder, 0, 0)
    nobody.folder.chmod(0o711)

    result = nobody.run("cat ../precious; echo x > a; cat a; cat /etc/passwd | head -c 4", strict=False, hide=("home",))

    assert "secret" not in result["said"]
    assert "x\nroot" in result["said"]


def test_it_has_namespaces_of_its_own_and_no_privileges_in_them(nobody: Place) -> None:
    result = nobody.run(
        "grep -E '^(NoNewPrivs|CapEff|Seccomp):' /proc/self/status; ls /proc; id -u; "
        "mount -t tmpfs x /tmp; cat /etc/shadow",
        strict=True,
    )

    words = result["said"].split()
    assert words[:6] == ["CapEff:", "0000000000000000", "NoNewPrivs:", "1", "Seccomp:", "2"]
    assert str(NOBODY) in words
    assert len([word for word in words[6:] if word.isdigit()]) < 10
    assert "root:" not in result["said"]


def test_it_is_found_and_ended_with_a_moment_to_tidy_up(nobody: Place) -> None:
    result = nobody.run("trap 'echo bye > said; exit 3' TERM; echo ready; while :; do sleep 0.05; done", strict=True)

    assert (result["code"], result["seen"] >= 2) == (3, True), result
    assert (nobody.folder / "place" / "said").read_text() == "bye\n"


def test_without_a_network_it_has_none(nobody: Place) -> None:
    result = nobody.run("cat /proc/net/dev | grep -c :", strict=True, network=False)

    assert result["said"].strip() == "1"
