"""Test files that a job is given: unreadable for others, in a folder closed to others, and deleted with the job."""

from __future__ import annotations

from pathlib import Path

from tests.support.jobs import Bench, claim_of
from workers.runners.environment import Scratch


def test_the_file_with_a_jobs_input_is_its_own(bench: Bench) -> None:
    result = bench.run({"shell": 'stat -c %a "$COORD_INPUT"'}, input={"a": 1})

    assert result.output == "600"


def test_scratch_files_are_in_a_folder_of_the_worker_and_go_with_the_job(tmp_path: Path) -> None:
    root, claim = tmp_path / "a" / "scratch", claim_of({"shell": "true"})

    with Scratch(root, claim) as scratch:
        written = Path(scratch.write_input(claim))
        folder = Path(scratch.make_folder())
        modes = [path.stat().st_mode & 0o777 for path in (root, written, folder)]

        assert [oct(mode) for mode in modes] == ["0o700", "0o600", "0o700"]
    assert list(root.iterdir()) == []
