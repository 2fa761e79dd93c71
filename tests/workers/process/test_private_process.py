"""Test that a worker's process is private before its slow imports, because jobs of others run beside it."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOOK = """
import os, runpy, sys
import coordination.base.host

def look():
    print([name for name in ("sqlalchemy", "celery", "structlog") if name in sys.modules], flush=True)
    os._exit(0)

coordination.base.host.keep_private = look
runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["workers", "workers.process.isolated_worker"])
def test_a_worker_is_private_before_it_imports_what_takes_time(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, module], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
