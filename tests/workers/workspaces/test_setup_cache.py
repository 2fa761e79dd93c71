"""Test the cache of setup results: incomplete ones are never used, and one worktree's paths become another's."""

from __future__ import annotations

import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from workers.runners.base import Control
from workers.workspaces import setup_cache


def copy(places: Sequence[Path], folder: Path) -> None:
    """Copy as ``cp -a`` does."""
    for place in places:
        if place.is_dir() and not place.is_symlink():
            shutil.copytree(place, folder / place.name, symlinks=True)
        else:
            shutil.copy2(place, folder / place.name, follow_symlinks=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "worktrees"


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(scratch=tmp_path / "scratch")


def made_in(root: Path, name: str) -> Path:
    top = root / "run" / name
    top.mkdir(parents=True)
    return top


def test_what_a_killed_setup_left_is_not_used(root: Path, control: Control) -> None:
    top = made_in(root, "a.1")
    (top / "deps").mkdir()
    first = setup_cache.acquire(root, "d", control)
    half = first.path.with_name("d.new") / "files" / "deps"
    half.mkdir(parents=True)
    (half / "half").touch()
    first.close()

    second = setup_cache.acquire(root, "d", control)
    assert second.about is None
    second.fill(top, ["deps"], [], copy)
    second.close()

    third = setup_cache.acquire(root, "d", control)
    assert third.about is not None
    assert third.bring_into(other := made_in(root, "b.1"), [], copy) == ["deps"]
    assert list((other / "deps").iterdir()) == []
    third.close()


@pytest.mark.parametrize("share", [["deps"], []], ids=["linked", "copied"])
def test_only_the_path_itself_is_replaced_and_only_in_texts(root: Path, control: Control, share: list[str]) -> None:
    top = made_in(root, "a.1")
    deps = top / "deps"
    (deps / "bin").mkdir(parents=True)
    (deps / "bin" / "tool").write_text(f"{top}/x {top}0/y {top}\n")
    (deps / "bin" / "tool").chmod(0o750)
    (deps / "bin" / "binary").write_bytes(b"\0" + str(top).encode())
    (deps / "inside").symlink_to("bin/tool")
    (deps / "absolute").symlink_to(f"{top}/deps/bin")
    (deps / "system").symlink_to("/bin/sh")
    first = setup_cache.acquire(root, "d", control)
    first.fill(top, ["deps"], share, copy)

    other = made_in(root, "b.1")
    first.bring_into(other, share, copy)
    first.close()

    tool = other / "deps" / "bin" / "tool"
    assert tool.read_text() == f"{other}/x {top}0/y {other}\n"
    assert tool.stat().st_mode & 0o777 == 0o750
    assert (other / "deps" / "bin" / "binary").read_bytes() == b"\0" + str(top).encode()
    links = {name: str((other / "deps" / name).readlink()) for name in ("inside", "absolute", "system")}
    assert links == {"inside": "bin/tool", "absolute": f"{other}/deps/bin", "system": "/bin/sh"}


def test_what_is_there_already_is_left_as_it_is(root: Path, control: Control) -> None:
    top, other = made_in(root, "a.1"), made_in(root, "b.1")
    (top / "deps").write_text("made")
    (other / "deps").write_text("committed since")
    first = setup_cache.acquire(root, "d", control)
    first.fill(top, ["deps"], [], copy)

    assert first.bring_into(other, ["deps"], copy) == []
    assert (other / "deps").read_text() == "committed since"
    first.close()


def test_nothing_is_written_through_a_link_of_the_worktree(root: Path, control: Control, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    top, other = made_in(root, "a.1"), made_in(root, "b.1")
    (top / "part").mkdir()
    (top / "part" / "deps").write_text("made")
    (other / "part").symlink_to(tmp_path / "outside")
    first = setup_cache.acquire(root, "d", control)
    first.fill(top, ["part/deps"], [], copy)

    with pytest.raises(NotADirectoryError):
        first.bring_into(other, [], copy)

    assert list((tmp_path / "outside").iterdir()) == []
    first.close()


def test_what_somebody_else_has_filled_meanwhile_is_not_filled_again(root: Path, control: Control) -> None:
    top = made_in(root, "a.1")
    first = setup_cache.acquire(root, "d", control)
    first.fill(top, [], [], copy)
    first.close()
    fd = os.open(root / setup_cache.FOLDER / "d.lock", os.O_RDWR)

    assert setup_cache._open_empty(first.path, fd) is None
    assert first.path.exists()
    os.close(fd)


@pytest.mark.parametrize("share", [["deps"], []], ids=["linked", "copied"])
def test_a_module_that_names_its_worktree_is_compiled_anew_in_each(
    root: Path, control: Control, share: list[str]
) -> None:
    top = made_in(root, "a.1")
    deps = top / "deps"
    deps.mkdir()
    (deps / "finder.py").write_text(f"PLACE = {str(top)!r}\n")
    (deps / "plain.py").write_text("PLACE = 1\n")
    for name in ("finder", "plain"):
        py_compile.compile(str(deps / f"{name}.py"))
    first = setup_cache.acquire(root, "d", control)
    first.fill(top, ["deps"], share, copy)
    (moment,) = {int((deps / "finder.py").stat().st_mtime)}
    look = "import sys; sys.path.insert(0, 'deps'); import finder, plain; print(finder.PLACE)"

    for key in ("b.1", "c.1"):
        other = made_in(root, key)
        first.bring_into(other, share, copy)
        os.utime(other / "deps" / "finder.py", (moment, moment))  # as if all were made in the same second
        output = subprocess.run([sys.executable, "-c", look], cwd=other, capture_output=True, text=True, check=True)
        assert output.stdout.strip() == str(other)
        assert (other / "deps" / "__pycache__" / f"plain.{sys.implementation.cache_tag}.pyc").exists()
    first.close()


@pytest.mark.parametrize("share", [["deps"], []], ids=["linked", "copied"])
def test_links_beside_a_text_lead_nowhere(root: Path, control: Control, tmp_path: Path, share: list[str]) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    for name in ("precious", "tool.pyc", "tool.cpython-311.pyc"):
        (victim / name).write_text("all of it")
    top = made_in(root, "a.1")
    (top / "deps").mkdir()
    (top / "deps" / "tool.py").write_text(f"#!{top}/x")
    (top / "deps" / "tool.py.coord").symlink_to(victim / "precious")
    (top / "deps" / "__pycache__").symlink_to(victim)
    first = setup_cache.acquire(root, "d", control)
    first.fill(top, ["deps"], share, copy)

    first.bring_into(other := made_in(root, "b.1"), share, copy)
    first.close()

    assert (other / "deps" / "tool.py").read_text() == f"#!{other}/x"
    assert not (other / "deps" / "tool.py").is_symlink()
    assert {path.name: path.read_text() for path in victim.iterdir()} == dict.fromkeys(
        ("precious", "tool.pyc", "tool.cpython-311.pyc"), "all of it"
    )
