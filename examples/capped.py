"""Runs capped.yaml: thirty jobs with money for ten, raised by a person when they wait: ``python examples/capped.py``.

No model is asked and no key is needed: each job waits a moment and reports what a call of a model would have cost.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SAYS_SO = "(No model was asked: this stands in for a call that costs five cents.)"
WAIT = 20  # letters, of which there are thirty
PATIENCE = 90.0  # seconds
STANDS_STILL = 3
"""How ``coord run`` ends where no person sits at a terminal: it can go on once somebody has raised the budget."""


def answer(letter: int) -> str:
    """The job: answer a letter, and report what that has cost."""
    from coordination.job import record_usage

    time.sleep(0.1)
    record_usage(model="stand-in", input_tokens=1000, output_tokens=100, cost_usd="0.05")
    return f"Dear reader, thank you for letter {letter}. {SAYS_SO}"


def main() -> int:
    """Run the plan; play the person who holds the money meanwhile. The exit status is that of ``coord run``."""
    with tempfile.TemporaryDirectory(prefix="capped-") as folder:
        environment = {"COORD_HOME": folder, **os.environ}
        print("== coord run capped.yaml: thirty jobs of five cents, and a budget of fifty cents", flush=True)
        run = subprocess.Popen([*coord(), "run", str(HERE / "capped.yaml")], cwd=HERE, env=environment)
        try:
            waits_for_money(run, environment)
            show(environment, "budgets", "list")
            show(environment, "budgets", "raise", "capped", "1.50")
            status = run.wait(PATIENCE)
            if status == STANDS_STILL:
                print("\n== coord resume capped", flush=True)
                status = subprocess.run(
                    [*coord(), "resume", "capped"], cwd=HERE, env=environment, check=False
                ).returncode
        finally:
            if run.poll() is None:
                run.terminate()
                run.wait()
        show(environment, "budgets", "list", "--ended")
        show(environment, "budgets", "check")
        return status


def coord() -> list[str]:
    """The command."""
    return [sys.executable, "-m", "coordination.cli"]


def budget_of_the_run(environment: dict[str, str]) -> dict[str, Any]:
    """As ``coord budgets list --json`` tells it; empty as long as nothing is submitted."""
    asked = [*coord(), "budgets", "list", "--json"]
    told = subprocess.run(asked, env=environment, capture_output=True, check=False)
    found = json.loads(told.stdout)["budgets"] if told.returncode == 0 else []
    return next((one for one in found if one["name"] == "capped"), {})


def waits_for_money(run: subprocess.Popen[bytes], environment: dict[str, str]) -> None:
    """Until nothing is left, nothing runs, and twenty tasks wait."""
    deadline = time.monotonic() + PATIENCE
    while run.poll() in {None, STANDS_STILL} and time.monotonic() < deadline:
        one = budget_of_the_run(environment)
        if one and one["waiting"] == WAIT and float(one["reserved"]["usd"]) == 0:
            return
        time.sleep(0.5)
    sys.exit("The run did not come to wait for money")


def show(environment: dict[str, str], *words: str) -> None:
    """Run a command for the reader to see."""
    print(f"\n== coord {' '.join(words)}", flush=True)
    subprocess.run([*coord(), *words], env=environment, check=True)


if __name__ == "__main__":
    sys.exit(main())
