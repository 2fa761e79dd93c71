"""Test the Python API on a running stack: submit, wait, stream events, read output and cost, cancel; on both stores."""

import threading
from decimal import Decimal
from pathlib import Path

import pytest

from coordination import Dependency, DependencyKind, OnDependencyFailure, PythonCall, RunState, Shell, Task, TaskState
from coordination.base.errors import IllegalMove, NotFound, PlanError
from coordination.domain.tasks.events import EventType
from tests.support.fleet import Fleet
from tests.support.processes import Processes, until
from tests.support.refusals import refuses

RECORD = '{\\"model\\": \\"small-1\\", \\"input_tokens\\": 10, \\"output_tokens\\": 5, \\"cost_usd\\": 0.015}'
SPEND = f'echo "{RECORD}" >> "$COORD_COSTS"'


@pytest.mark.shared_worker
@pytest.mark.smoke
def test_a_plan_is_submitted_awaited_and_read(fleet: Fleet) -> None:
    fleet.worker("-c", "4")
    run = fleet.submit(
        Task("words", Shell("printf 'one two three'")),
        Task("quoted", PythonCall("urllib.parse:quote_plus", {"string": "{{ needs.words.output }}"}), needs=["words"]),
        Task("spend", {"shell": f"{SPEND}; {SPEND}"}, title="Spend a little"),
        Task("unpriced", {"shell": 'echo "{\\"model\\": \\"new-9\\"}" >> "$COORD_COSTS"'}),
    )
    seen: list[str] = []
    streaming = threading.Thread(target=lambda: seen.extend(event.type for event in run.events()))
    streaming.start()

    state = run.wait(timeout=40)
    streaming.join(timeout=20)

    assert state is RunState.COMPLETED
    assert not streaming.is_alive()
    assert run.task("words").output == "one two three"
    assert run.task("quoted").output == "one+two+three"
    assert run.task("spend").cost == run.cost == Decimal("0.030")
    assert run.record.unpriced_calls == 1
    assert (seen[0], seen[-1]) == (EventType.RUN_SUBMITTED, EventType.RUN_FINISHED)
    assert seen.count(EventType.COMPLETED) == 4
    kinds = [event.type for event in run.task("quoted").events() if event.type is not EventType.STARTED]
    assert kinds == ["created", "unblocked", "claimed", "completed"], "one so short need not say that it has started"


def test_a_run_is_found_again_by_its_id_by_a_part_of_it_and_by_name(fleet: Fleet) -> None:
    run = fleet.submit(Task("a", {"shell": "true"}), name="nightly")

    assert fleet.co.run(run.id).id == fleet.co.run(run.id[-8:]).id == fleet.co.run("nightly").id == run.id
    with refuses(NotFound):
        fleet.co.run("other")


def test_a_printed_handle_shows_no_settings(fleet: Fleet) -> None:
    run = fleet.submit(Task("a", {"shell": "true"}))

    assert repr(run) == f"Run(id='{run.id}')"
    assert fleet.co.runtime.settings.database_url not in repr(run.task("a"))


def test_waiting_ends_when_the_time_is_over(fleet: Fleet) -> None:
    run = fleet.submit(Task("a", {"shell": "true"}))

    with pytest.raises(TimeoutError, match="still open"):
        run.wait(timeout=0.05)


def test_what_was_canceled_before_it_began_never_runs(fleet: Fleet) -> None:
    run = fleet.submit(Task("a", {"shell": "touch ran"}), Task("b", {"shell": "true"}, needs=["a"]))

    assert run.cancel("not needed") == 2
    fleet.worker()
    other = fleet.submit(Task("c", {"shell": "true"}))

    assert other.wait(timeout=30) is RunState.COMPLETED
    assert not fleet.file("ran").exists()
    assert (run.state, run.cancel()) == (RunState.CANCELED, 0)


@pytest.mark.shared_worker
@pytest.mark.smoke
def test_a_failed_run_is_retried_with_what_it_had_canceled(fleet: Fleet) -> None:
    fleet.worker()
    run = fleet.submit(Task("a", {"shell": "test -e mended"}), Task("b", {"shell": "true"}, needs=["a"]))
    assert run.wait(timeout=30) is RunState.FAILED
    assert run.task("b").state is TaskState.CANCELED

    fleet.file("mended").touch()
    assert run.retry() == 2

    assert run.wait(timeout=30) is RunState.COMPLETED
    ends = {EventType.RUN_FINISHED, EventType.RUN_REOPENED}
    assert [event.type for event in run.events() if event.type in ends] == [
        EventType.RUN_FINISHED,
        EventType.RUN_REOPENED,
        EventType.RUN_FINISHED,
    ]
    with pytest.raises(IllegalMove):
        run.task("a").retry()


@pytest.mark.shared_worker
def test_a_held_project_starts_nothing_until_it_goes_on(fleet: Fleet) -> None:
    fleet.worker()
    first = fleet.submit(Task("a", {"shell": "true"}))
    first.wait(timeout=30)

    fleet.co.projects.pause("fleet")
    run = fleet.submit(Task("b", {"shell": "true"}))
    until(lambda: run.task("b").state is TaskState.BLOCKED, what="the pause")
    assert run.task("b").record.reasons.names() == ["paused"]
    assert fleet.co.projects.resume("fleet") == 1

    assert run.wait(timeout=30) is RunState.COMPLETED


@pytest.mark.shared_worker
def test_a_run_that_only_a_person_can_move_is_stuck_not_waited_for(fleet: Fleet) -> None:
    fleet.worker()
    run = fleet.submit(
        Task("a", {"shell": "false"}),
        Task("b", {"shell": "true"}, needs=["a"], on_dependency_failure=OnDependencyFailure.BLOCK),
    )

    assert run.wait(timeout=30) is RunState.STUCK


@pytest.mark.shared_worker
def test_bad_plans_are_refused_and_nothing_is_stored(fleet: Fleet) -> None:
    bad = [
        (PlanError, "tasks.a.needs", [Task("a", {"shell": "x"}, needs=["b"]), Task("b", {"shell": "x"}, needs=["a"])]),
        (PlanError, "tasks.a.needs", [Task("a", {"shell": "x"}, needs=["nowhere"])]),
        (PlanError, "tasks.a.run", [Task("a", lambda: 1)]),
        (PlanError, "tasks.a.key", [Task("a", {"shell": "x"}), Task("a", {"shell": "y"})]),
    ]

    for kind, field, tasks in bad:
        with refuses(kind, field=field):
            fleet.submit(*tasks)

    assert fleet.co.runs() == []


@pytest.mark.shared_worker
def test_related_work_does_not_hold_back(fleet: Fleet) -> None:
    fleet.worker()
    never = fleet.submit(
        Task("later", {"shell": "sleep 60"}),
        Task("now", {"shell": "true"}, needs=[Dependency("later", DependencyKind.DISCOVERED_FROM)]),
    )

    until(lambda: never.task("now").state is TaskState.COMPLETED, what="the related task")
    never.cancel()


@pytest.mark.shared_worker
def test_a_script_needs_a_few_lines(fleet: Fleet, processes: Processes, tmp_path: Path) -> None:
    fleet.worker()
    script = tmp_path / "script.py"
    script.write_text(
        "from coordination import connect, Plan, Task\n"
        "with connect() as co:\n"
        "    run = co.submit(Plan([Task('hello', {'shell': 'echo hello'})]))\n"
        "    print(run.wait(timeout=30), run.task('hello').output, run.cost, flush=True)\n"
    )

    started = processes.start_python(script, env=fleet.env, cwd=tmp_path)

    assert started.wait() == 0
    assert "completed hello 0" in started.output
