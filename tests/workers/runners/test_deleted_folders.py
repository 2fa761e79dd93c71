"""Test that the files which jobs leave in folders are deleted with them, however deep the nesting is."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.jobs import claim_of
from workers.runners import untrusted_files
from workers.runners.environment import Scratch

LEVELS = 1_500  # Python's own function fails below a thousand


def nested(folder: Path) -> None:
    """Create nested folders; each is entered by a descriptor, because no path may be that long."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(LEVELS):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_folders_without_end_are_taken_away_with_few_descriptors(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    nested(tmp_path / "job")

    untrusted_files.delete_quietly(str(tmp_path / "job"))

    assert not (tmp_path / "job").exists()


def test_a_job_that_nests_folders_in_its_own_folder_ends_as_others_do(tmp_path: Path) -> None:
    with Scratch(tmp_path, claim_of({"shell": "true"})) as scratch:
        nested(Path(scratch.make_folder()))

    assert not list(tmp_path.iterdir())


def test_nothing_is_taken_away_where_there_is_nothing(tmp_path: Path) -> None:
    untrusted_files.delete_quietly(None)
    untrusted_files.delete_quietly(str(tmp_path / "gone"))
    (tmp_path / "kept").write_text("x")
    (tmp_path / "link").symlink_to("kept")
    untrusted_files.delete_quietly(str(tmp_path / "link"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_walk_is_what_pythons_is(tmp_path: Path) -> None:
    for name in ("a/b", "c", "c/.git"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a" / "file").write_text("x")
    (tmp_path / "a" / "to folder").symlink_to(tmp_path / "c")
    (tmp_path / "a" / "to file").symlink_to("file")
    (tmp_path / "a" / "to nothing").symlink_to("gone")

    def seen(walk: object) -> list[tuple[str, list[str], list[str]]]:
        return sorted((folder, sorted(names), sorted(others)) for folder, names, others in walk)  # type: ignore[attr-defined]

    assert seen(untrusted_files.walk(str(tmp_path))) == seen(os.walk(tmp_path))


def test_a_walk_goes_where_its_caller_lets_it_and_nests_as_deep_as_paths_do(tmp_path: Path) -> None:
    (tmp_path / "not").mkdir()
    (tmp_path / "not" / "here").write_text("x")
    (tmp_path / "job").mkdir()
    nested(tmp_path / "job")
    visited = []
    try:
        for folder, names, others in untrusted_files.walk(str(tmp_path)):
            names[:] = [name for name in names if name != "not"]
            visited.append((folder, others))
    finally:
        untrusted_files.delete_quietly(str(tmp_path / "job"))

    assert len(visited) > 1_000
    assert not any(others for _, others in visited)
