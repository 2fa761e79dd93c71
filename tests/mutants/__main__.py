"""``python -m tests.mutants``: applies each mutant to a copy of the checkout and runs the tests that have to fail then.

Exit code: 0 when every mutant is noticed, 1 when one is missed or its patch does not apply, 2 when the tests fail
without any mutant.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.mutants import Mutant, read_all
from tests.support.sources import ROOT, repository_files

QUICK = "not full"
FULL = "full"
_PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "0")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_TESTS_FAILED = 1  # pytest's exit code; 0 is success, 2 to 5 mean that no test has judged the change
_TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one mutant: a word, the tier that decided it, how long that took, and the test or the reason."""

    mutant: Mutant
    word: str
    tier: str
    seconds: float
    by: str

    @property
    def noticed(self) -> bool:
        """Whether a test failed because of the mutant."""
        return self.word == "noticed"

    def __str__(self) -> str:
        return f"{self.mutant.name:<44} {self.word:<14} {self.tier:<6} {self.seconds:6.1f} s  {self.by}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, try every mutant, print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only mutants whose name starts so")
    parser.add_argument("--tier", choices=("quick", "full"), default="full", help="how many of the tests may notice")
    parser.add_argument("--jobs", type=int, default=2, help="how many mutants are tried at once")
    parser.add_argument("--limit", type=float, default=120, metavar="SECONDS", help="for the tests of one mutant")
    options = parser.parse_args(arguments)
    mutants = [one for one in read_all() if not options.names or one.name.startswith(tuple(options.names))]
    if not mutants:
        parser.error("no mutant has such a name")
    with tempfile.TemporaryDirectory(prefix="coord-mutants-") as folder:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(min(options.jobs, len(mutants))):
            copies.put(_copy(Path(folder) / str(number)))
        first = copies.get()
        if not _passes(first, mutants, options.tier, options.jobs):
            return 2
        copies.put(first)

        def attempt(mutant: Mutant) -> Verdict:
            copy = copies.get()
            try:
                verdict = _try(mutant, copy, options.tier, options.limit)
            finally:
                copies.put(copy)
            _say(str(verdict))
            return verdict

        with ThreadPoolExecutor(options.jobs) as pool:
            verdicts = list(pool.map(attempt, mutants))
    noticed = [one for one in verdicts if one.noticed]
    quick = sum(one.tier == "quick" for one in noticed)
    missed = len(verdicts) - len(noticed)
    _say(f"{len(verdicts)} mutants: {len(noticed)} noticed ({quick} by the quick tier), {missed} missed")
    return 1 if missed else 0


def _copy(folder: Path) -> Path:
    for path in repository_files():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return folder


def _passes(copy: Path, mutants: Sequence[Mutant], tier: str, jobs: int) -> bool:
    """Run all listed tests on the unchanged source: a test that fails anyway notices nothing."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    chosen = ("-m", QUICK) if tier == "quick" else ()
    command = [sys.executable, *_PYTEST, "-n", str(jobs), *chosen, *tests]
    done = subprocess.run(command, cwd=copy, env=_environment(copy), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        _say(f"without any mutant {len(tests)} tests pass")
        return True
    _say(done.stdout + done.stderr)
    _say("without any mutant the tests above have to pass")
    return False


def _try(mutant: Mutant, copy: Path, tier: str, limit: float) -> Verdict:
    start = time.monotonic()
    if said := _apply(mutant, copy):
        return Verdict(mutant, "does not apply", "-", time.monotonic() - start, said.strip().splitlines()[0])
    try:
        word, by, decided = "MISSED", "", tier
        for name, expression in (("quick", QUICK), ("full", FULL))[: 2 if tier == "full" else 1]:
            word, by = _judge(mutant, copy, expression, limit)
            if word != "MISSED":
                decided = name
                break
        return Verdict(mutant, word, decided, time.monotonic() - start, by)
    finally:
        _apply(mutant, copy, "-R")


def _apply(mutant: Mutant, copy: Path, *options: str) -> str:
    """Apply or take back the patch; return what git says against it."""
    command = ["git", "apply", *options, str(mutant.patch)]
    done = subprocess.run(command, cwd=copy, env=_environment(copy), capture_output=True, text=True, check=False)
    for name in mutant.files:
        # Bytecode counts as fresh for a file of the same size and the same second.
        for compiled in (copy / name).parent.glob(f"__pycache__/{Path(name).stem}.*.pyc"):
            compiled.unlink()
    return done.stderr or "git refused" if done.returncode else ""


def _judge(mutant: Mutant, copy: Path, expression: str, limit: float) -> tuple[str, str]:
    """Run the mutant's tests of one tier; return the word for what came out, and the test or the reason."""
    command = [sys.executable, *_PYTEST, "-n", "0", "-x", "-m", expression, *mutant.tests]
    with subprocess.Popen(
        command, cwd=copy, env=_environment(copy), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            root = psutil.Process(process.pid)
            for one in [*root.children(recursive=True), root]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            return ("noticed" if mutant.hangs else _TIMED_OUT), f"after {limit:g} s"
    if process.returncode == _TESTS_FAILED:
        failed = _FAILED.search(output)
        return "noticed", failed[1] if failed else "a test"
    if process.returncode in {0, 5}:  # all passed, or none is of this tier
        return "MISSED", ""
    return "not judged", f"pytest ended with {process.returncode}: {output.strip().splitlines()[-1]}"


def _environment(copy: Path) -> dict[str, str]:
    """The environment in which the copy is what is imported, and no repository is around it."""
    return {**os.environ, "PYTHONPATH": str(copy), "GIT_CEILING_DIRECTORIES": str(copy.parent)}


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
