"""Test that files in folders which jobs can write are read and copied from these folders only."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from workers.runners import untrusted_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Provide a job's folder, beside files that it must not lead to."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("secret")
    created = tmp_path / "place"
    created.mkdir()
    return created


def test_a_copy_has_the_content_the_mode_and_the_times(folder: Path) -> None:
    (folder / "x").write_text("1")
    (folder / "x").chmod(0o750)
    os.utime(folder / "x", ns=(5, 7_000_000_000))

    untrusted_files.copy(str(folder / "x"), str(folder / "y"))

    result = (folder / "y").stat()
    assert ((folder / "y").read_text(), result.st_mode & 0o777, result.st_mtime_ns) == ("1", 0o750, 7_000_000_000)


@pytest.mark.parametrize("name", ["file", "deep/x"])
def test_no_link_is_followed_to_what_is_copied(folder: Path, name: str) -> None:
    (folder / "file").symlink_to(folder.parent / "outside" / "x")
    (folder / "deep").symlink_to(folder.parent / "outside")

    with pytest.raises(OSError):  # noqa: PT011 - its type depends on the position of the link
        untrusted_files.copy(str(folder / name), str(folder / "y"))

    assert not (folder / "y").exists()


def test_a_file_with_holes_that_is_larger_than_the_disk_is_not_copied(folder: Path) -> None:
    with (folder / "x").open("wb") as file:
        file.truncate(8 << 40)

    with pytest.raises(OSError, match="larger than what is free"):
        untrusted_files.copy(str(folder / "x"), str(folder / "y"))

    assert not (folder / "y").exists()


def test_a_copy_takes_the_place_of_nothing(folder: Path) -> None:
    (folder / "x").write_text("1")
    (folder / "y").symlink_to(folder.parent / "outside" / "x")

    with pytest.raises(FileExistsError):
        untrusted_files.copy(str(folder / "x"), str(folder / "y"))

    assert (folder.parent / "outside" / "x").read_text() == "secret"


def test_a_tree_is_copied_without_what_became_a_link(folder: Path) -> None:
    (folder / "in" / "deep").mkdir(parents=True)
    (folder / "in" / "deep" / "x").write_text("1")

    def copy(source: str, target: str) -> None:
        Path(source).unlink()
        Path(source).symlink_to(folder.parent / "outside" / "x")
        untrusted_files.copy(source, target)

    with pytest.raises(shutil.Error):
        shutil.copytree(folder / "in", folder / "out", symlinks=True, copy_function=copy)

    assert not (folder / "out" / "deep" / "x").exists()


def test_a_new_file_takes_the_place_of_a_link_with_its_mode(folder: Path) -> None:
    (folder / "x").symlink_to(folder.parent / "outside" / "x")

    untrusted_files.write_new(folder / "x", b"1", mode=0o750)

    assert untrusted_files.read_with_mode(folder / "x") == (b"1", 0o750)
    assert (folder.parent / "outside" / "x").read_text() == "secret"
