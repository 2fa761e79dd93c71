"""Test the doctor's report on the sandbox: what this machine supports, and whether workers can start."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordination.base import kernel_features
from coordination.base.kernel_features import KernelFeatures
from tests.support.command import coord_in
from tests.support.strict import needs_bubblewrap

ALL = KernelFeatures(7, seccomp=True, bubblewrap="bubblewrap 0.8.0")
OLD = KernelFeatures(2, seccomp=True, bubblewrap="bubblewrap 0.8.0")
WITHOUT_SECCOMP = KernelFeatures(7, seccomp=False, bubblewrap="bubblewrap 0.8.0")
NO_BUBBLEWRAP = KernelFeatures(7, seccomp=True, bubblewrap=None)
NO_NAMESPACES = KernelFeatures(7, seccomp=True, bubblewrap="bubblewrap 0.8.0", problem="bwrap: No permissions")


@pytest.mark.parametrize(
    ("variables", "means", "verdict", "said"),
    [
        ({}, ALL, "ok", "off; there is Landlock 7, seccomp, bubblewrap 0.8.0"),
        (
            {},
            KernelFeatures(0, seccomp=False, bubblewrap=None),
            "ok",
            "off; there is no Landlock, no seccomp, no bubblewrap",
        ),
        ({"COORD_SANDBOX": "1"}, ALL, "ok", "on, with Landlock 7, seccomp, bubblewrap 0.8.0"),
        ({"COORD_SANDBOX": "1"}, OLD, "note", "on, with Landlock 2"),
        ({"COORD_SANDBOX": "1"}, NO_BUBBLEWRAP, "ok", "on, with Landlock 7, seccomp, no bubblewrap"),
        ({"COORD_REQUIRE_SANDBOX": "1"}, OLD, "wrong", "on, with Landlock 2"),
        ({"COORD_REQUIRE_SANDBOX": "1"}, WITHOUT_SECCOMP, "wrong", "on, with Landlock 7, no seccomp"),
        ({"COORD_SANDBOX": "strict"}, ALL, "ok", "strict, with Landlock 7, seccomp, bubblewrap 0.8.0"),
        ({"COORD_SANDBOX": "strict"}, OLD, "wrong", "strict, with Landlock 2"),
        ({"COORD_SANDBOX": "strict"}, NO_BUBBLEWRAP, "wrong", "run: apt install bubblewrap"),
        (
            {"COORD_SANDBOX": "strict"},
            NO_NAMESPACES,
            "wrong",
            "which cannot create namespaces here (bwrap: No permissions)",
        ),
    ],
)
def test_it_says_what_there_is_and_whether_that_is_enough(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    variables: dict[str, str],
    means: KernelFeatures,
    verdict: str,
    said: str,
) -> None:
    monkeypatch.setattr(kernel_features, "detect", lambda: means)
    coord = coord_in(tmp_path, **variables)

    answer = coord("doctor", "--json", code=1 if verdict == "wrong" else 0).json

    (check,) = [check for check in answer["checks"] if check["name"] == "sandbox"]
    assert check["verdict"] == verdict
    assert said in f"{check['detail']}. {check['hint']}"
    assert answer["healthy"] is (verdict != "wrong")


def test_it_asks_the_kernel_and_bubblewrap() -> None:
    needs_bubblewrap()

    result = kernel_features.detect()

    assert result.landlock >= kernel_features.MIN_LANDLOCK
    assert (result.seccomp, result.problem) == (True, None)
    assert (result.bubblewrap or "").startswith("bubblewrap ")
