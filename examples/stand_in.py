"""Stands in for an agent, so that the examples run without a key: a script that knows their tasks. No model is asked.

It does what an agent's program does: it reads its prompt, changes files in its folder, answers on stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SAYS_SO = "(A script stands in for an agent here: no model was asked.)"

VOUCHERS = '''"""Vouchers: a fixed amount off a basket."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Voucher:
    """A code that is worth so many cents."""

    code: str
    cents: int

    def __post_init__(self) -> None:
        if not self.code or self.cents < 1:
            raise ValueError("a voucher has a code, and is worth at least a cent")


def redeem(total: int, vouchers: Iterable[Voucher]) -> int:
    """What is left to pay, in cents; a code counts once."""
    worth = {voucher.code: voucher.cents for voucher in vouchers}
    return max(0, total - sum(worth.values()))
'''
VOUCHER_TESTS = """import unittest

from till.vouchers import Voucher, redeem


class Vouchers(unittest.TestCase):
    def test_an_amount_off_and_never_less_than_nothing(self):
        self.assertEqual(redeem(500, [Voucher("a", 200)]), 300)
        self.assertEqual(redeem(100, [Voucher("a", 200)]), 0)

    def test_a_code_counts_once(self):
        self.assertEqual(redeem(500, [Voucher("a", 200)] * 3), 300)

    def test_what_is_no_voucher(self):
        for code, cents in (("", 5), ("a", 0)):
            with self.assertRaises(ValueError):
                Voucher(code, cents)
"""


def replaced(file: str, old: str, new: str) -> None:
    path = Path(file)
    path.write_text(path.read_text().replace(old, new))


def fix_prices() -> str:
    replaced("till/prices.py", 'text.strip().partition(".")', 'text.strip().replace(",", ".").partition(".")')
    replaced("till/prices.py", "int(cents or 0)", 'int(cents.ljust(2, "0"))')
    return "Commas count as points, and 3.5 is three euros fifty."


def fix_basket() -> str:
    # The first attempt misses one error; the gate fails, and the second attempt fixes it.
    if "## Why your last attempt was rejected" in PROMPT:
        replaced("till/basket.py", "round(whole * (100 - discount) / 100)", "whole * (100 - discount) // 100")
        return "Half a cent is the customer's."
    replaced("till/basket.py", "count < 0", "count < 1")
    return "Nothing is added less than once."


def fix_receipt() -> str:
    replaced("till/receipt.py", "counted: dict[str, int] = {}", "counted: dict[str, list[int]] = {}")
    replaced("till/receipt.py", "counted[name] = cents", "counted.setdefault(name, []).append(cents)")
    replaced("till/receipt.py", 'f"{name}  {show(cents)}"', 'f"{len(cents)} {name}  {show(sum(cents))}"')
    return "Items of a kind stand in one line."


def review_errors() -> str:
    return "- till/basket.py:16: nothing may be added zero times\n- till/prices.py:7: 3.5 is read as 3.05"


def review_tests() -> str:
    return "- prices above a thousand\n- an empty basket's receipt"


def review_words() -> str:
    return "- Basket.total: `whole` is a sum"


def write_report() -> str:
    Path("review.md").write_text(f"# Review\n\n{SAYS_SO}\n\n{PROMPT.split('## How to report')[0].split('once.')[-1]}\n")
    return "review.md has it all"


def assess() -> str:
    subtasks = [
        {"key": "tests", "title": "The tests first", "prompt": "Write tests/test_vouchers.py for docs/spec.md."}
    ]
    return json.dumps({"strategy": "tests first", "risks": ["a code given twice"], "subtasks": subtasks})


def write_tests() -> str:
    Path("tests/test_vouchers.py").write_text(VOUCHER_TESTS)
    return "tests/test_vouchers.py: three tests"


def build() -> str:
    Path("till/vouchers.py").write_text(VOUCHERS)
    done = subprocess.run([sys.executable, "-m", "unittest", "-q", "tests.test_vouchers"], check=False)
    return "till/vouchers.py" if done.returncode == 0 else "till/vouchers.py, but its tests fail"


def analyze() -> str:
    return json.dumps({"verdict": "done", "why": "the tests pass", "follow_ups": []})


KNOWN: dict[str, Callable[[], str]] = {
    "prices": fix_prices,
    "basket": fix_basket,
    "receipt": fix_receipt,
    "errors": review_errors,
    "tests": review_tests,
    "words": review_words,
    "report": write_report,
    "vouchers/assess": assess,
    "vouchers/work/tests": write_tests,
    "vouchers/work": build,
    "vouchers": analyze,
}

if __name__ == "__main__":
    PROMPT = sys.stdin.read()
    key = os.environ.get("COORD_TASK_KEY", "")
    if key not in KNOWN:
        sys.exit(f"This script knows no task {key!r}; it stands in for an agent in the examples only")
    sys.stderr.write(SAYS_SO + "\n")
    sys.stdout.write(KNOWN[key]() + "\n")
