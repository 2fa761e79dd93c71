"""Test recorded workflows: read from a file, refused in one sentence, and their shortest possible time."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.graphs import napping
from benchmarks.workflow import MONTAGE, BadWorkflowError, read

DIAMOND = [
    {"id": "last_ID4", "parents": ["left_ID2", "right_ID3"], "seconds": 1},
    {"id": "first_ID1", "parents": [], "seconds": 2.5},
    {"id": "left_ID2", "parents": ["first_ID1"], "seconds": 4},
    {"id": "right_ID3", "parents": ["first_ID1"], "seconds": 0.5},
]


def write(folder: Path, tasks: Any, **more: Any) -> Path:
    path = folder / "workflow.json"
    path.write_text(json.dumps({"tasks": tasks, **more}), encoding="utf-8")
    return path


class TestReading:
    def test_steps_come_after_their_parents_whatever_their_order_in_the_file(self, tmp_path: Path) -> None:
        result = read(write(tmp_path, DIAMOND, source="here"))

        order = [step.id for step in result.steps]
        assert sorted(order) == ["first_ID1", "last_ID4", "left_ID2", "right_ID3"]
        assert (order[0], order[-1]) == ("first_ID1", "last_ID4")
        assert result.source == "here"
        assert result.edges == 4

    def test_a_compressed_file_is_read_too(self, tmp_path: Path) -> None:
        path = tmp_path / "workflow.json.gz"
        path.write_bytes(gzip.compress(json.dumps({"tasks": DIAMOND}).encode(), mtime=0))

        assert len(read(path).steps) == 4

    def test_a_parent_named_twice_is_one_edge(self, tmp_path: Path) -> None:
        tasks = [{"id": "a", "parents": [], "seconds": 1}, {"id": "b", "parents": ["a", "a"], "seconds": 1}]

        assert read(write(tmp_path, tasks)).edges == 1

    def test_the_real_one_is_as_large_as_its_page_says(self) -> None:
        result = read(MONTAGE)

        assert len(result.steps) == 2122
        assert result.edges == 6114
        assert round(result.work) == 78088

    @pytest.mark.parametrize(
        ("tasks", "why"),
        [
            (None, "needs a list of tasks under the key 'tasks'"),
            ([], "needs a list of tasks under the key 'tasks'"),
            (["a"], "task 1 has no id that is a text"),
            ([{"id": 7, "parents": [], "seconds": 1}], "task 1 has no id that is a text"),
            ([{"id": "a", "seconds": 1}], r"task 1 \(a\) needs a list of ids under 'parents'"),
            ([{"id": "a", "parents": [1], "seconds": 1}], r"task 1 \(a\) needs a list of ids under 'parents'"),
            ([{"id": "a", "parents": []}], r"task 1 \(a\) needs its run time, 0 or more, under 'seconds'"),
            ([{"id": "a", "parents": [], "seconds": -1}], "needs its run time, 0 or more"),
            ([{"id": "a", "parents": [], "seconds": True}], "needs its run time, 0 or more"),
            ([{"id": "a", "parents": [], "seconds": float("nan")}], "needs its run time, 0 or more"),
            ([{"id": "a", "parents": [], "seconds": 1}] * 2, "there are two tasks 'a'"),
            ([{"id": "a", "parents": ["b"], "seconds": 1}], "'a' waits for 'b', which does not exist"),
            ([{"id": "a", "parents": ["a"], "seconds": 1}], "these wait for each other: a -> a"),
        ],
    )
    def test_a_file_of_another_shape_is_refused_in_one_sentence(self, tmp_path: Path, tasks: Any, why: str) -> None:
        path = write(tmp_path, tasks)

        with pytest.raises(BadWorkflowError, match=why) as refused:
            read(path)

        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        ("name", "content", "why"),
        [
            ("workflow.json", None, "cannot be read: No such file or directory"),
            ("workflow.json", b"{", "is no JSON"),
            ("workflow.json", b"\xff\xfe\x00", "is no JSON"),
            ("workflow.json", b"[]", "is no workflow"),
            ("workflow.json.gz", b"{}", "cannot be read: Not a gzipped file"),
            ("workflow.json.gz", gzip.compress(b"{}", mtime=0)[:12], "is no JSON"),
        ],
    )
    def test_what_is_no_json_is_refused_in_one_sentence(
        self, tmp_path: Path, name: str, content: bytes | None, why: str
    ) -> None:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)

        with pytest.raises(BadWorkflowError, match=why) as refused:
            read(path)

        assert "\n" not in str(refused.value)


class TestBounds:
    def test_the_critical_path_is_the_longest_chain(self, tmp_path: Path) -> None:
        assert read(write(tmp_path, DIAMOND)).critical_path == 7.5

    def test_many_slots_are_bound_by_the_critical_path_and_one_slot_by_the_work(self, tmp_path: Path) -> None:
        result = read(write(tmp_path, DIAMOND))

        assert result.work == 8
        assert result.lower_bound(100) == 7.5
        assert result.lower_bound(1) == 8

    def test_every_step_knows_who_waits_for_it(self, tmp_path: Path) -> None:
        result = read(write(tmp_path, DIAMOND))
        names = [step.id for step in result.steps]

        waiting = {names[number]: sorted(names[child] for child in of) for number, of in enumerate(result.children())}

        assert waiting == {
            "first_ID1": ["left_ID2", "right_ID3"],
            "left_ID2": ["last_ID4"],
            "right_ID3": ["last_ID4"],
            "last_ID4": [],
        }


class TestTasks:
    def test_a_program_is_what_ran_without_its_number(self, tmp_path: Path) -> None:
        names = {"mProject_ID0000017": "mProject", "blast-3": "blast", "17": "task", "a.b c": "a_b_c"}
        tasks = [{"id": name, "parents": [], "seconds": 0} for name in names]

        assert {step.id: step.program for step in read(write(tmp_path, tasks)).steps} == names

    def test_a_replay_sleeps_for_its_share_and_keeps_the_edges(self, tmp_path: Path) -> None:
        result = read(write(tmp_path, DIAMOND))

        tasks = napping(result, 0.1)

        assert [(task.run, task.needs) for task in tasks if task.key == "t0"] == [
            ({"python": "benchmarks.jobs:nap_first", "args": {"seconds": 0.25}}, [])
        ]
        last = tasks[-1]
        assert last.run == {"python": "benchmarks.jobs:nap_last", "args": {"seconds": 0.1}}
        assert sorted(last.needs) == ["t1", "t2"]

    def test_the_core_of_a_workflow_keeps_what_most_depends_on(self, tmp_path: Path) -> None:
        core = read(write(tmp_path, [*DIAMOND, {"id": "alone", "parents": [], "seconds": 9}])).core(4)

        assert "alone" not in {step.id for step in core.steps}
        assert core.edges == 4
