"""Makes each test process independent of how and where the run was started: a plugin that conftest.py registers."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support import speed
from tests.support.figures import Figures
from tests.support.processes import mark_descendants
from tests.support.reaper import watch_over_this_process

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare this process before any test code runs in it; each process of a run does this for itself."""
    _heed_interrupts()
    _reach_loopback_directly()
    speed.calibrate(config)
    watch_over_this_process(mark_descendants())
    config.pluginmanager.register(Figures())


def pytest_report_header() -> str:
    """Return the run's factor for time limits, and its reason."""
    return speed.describe()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Scale each test's time limit."""
    speed.scale_timeouts(config, items)


def _heed_interrupts() -> None:
    """Undo what a shell does to a command that it starts in the background: children would ignore ^C as well."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup: a handler is not inherited, an ignored signal is
        signal.signal(signal.SIGHUP, lambda *_: None)


def _reach_loopback_directly() -> None:
    """Exempt loopback from a proxy; downloads from a package registry still go through it."""
    for name in ("NO_PROXY", "no_proxy"):
        exempt = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*exempt, *_LOOPBACK]))
