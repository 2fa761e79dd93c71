"""Test that a task gets the newest inputs when it begins, and counts as outdated when one of them is repeated later."""

from __future__ import annotations

from datetime import timedelta

from coordination.domain.tasks.attempts import Outcome
from coordination.domain.tasks.outdated import OutdatedTask
from coordination.domain.tasks.tasks import OnDependencyFailure, TaskState
from coordination.flows.tasks.explain_task import explain_task
from coordination.flows.tasks.force_tasks import force_task
from coordination.store.queries.tasks import outdated
from tests.support.invariants import broken
from tests.support.world import World

RUN = OnDependencyFailure.RUN


def force(world: World, key: str, target: TaskState = TaskState.QUEUED) -> None:
    world.store.transact(
        lambda tx: force_task(tx, world.workspace, world.ids[key], target, actor="ann", reason="it was wrong")
    )


def outdated_tasks(world: World) -> list[OutdatedTask]:
    with world.store.read() as tx:
        assert outdated.of_workspace(tx, world.workspace, most=10) == list(
            reversed(outdated.of_run(tx, world.workspace, world.run_id))
        )
        return outdated.of_run(tx, world.workspace, world.run_id)


def explained(world: World, key: str) -> str:
    with world.store.read() as tx:
        output = explain_task(tx, world.workspace, world.task(key), live_within=timedelta(minutes=1))
    return "\n".join(output.lines())


def inputs_of(world: World, key: str) -> object:
    assert world.claim(key) == [key]
    return {need: of["output"] for need, of in world.claims[key].needs.items()}


def test_what_has_not_begun_is_given_the_newest(world: World) -> None:
    world.submit("up", "down < up")
    world.do("up", output="old")

    force(world, "up")
    assert world.states() == {"up": "queued", "down": "blocked"}
    world.do("up", output="new")

    assert inputs_of(world, "down") == {"up": "new"}
    assert outdated_tasks(world) == []
    assert broken(world.store) == []


def test_what_has_completed_with_the_former_output_is_outdated_until_it_is_done_again(world: World) -> None:
    world.submit("up", "other", "down < up other")
    world.do("up", output="old")
    world.do("other")
    world.do("down")
    assert outdated_tasks(world) == []

    force(world, "up")
    (meanwhile,) = outdated_tasks(world)
    said_meanwhile = explained(world, "down")
    world.do("up", output="new")
    (after,) = outdated_tasks(world)
    said_after = explained(world, "down")
    force(world, "down")
    redone = inputs_of(world, "down")
    world.finish("down")

    assert (meanwhile.key, meanwhile.need, meanwhile.need_state, meanwhile.can_rerun) == ("down", "up", "queued", False)
    assert "attempt 1 used the result of up from before, and up runs again now (queued)" in said_meanwhile
    assert (after.need_state, after.can_rerun) == ("completed", True)
    assert said_after.splitlines()[-2:] == [
        "  outdated: attempt 1 used the result of up from before it ran again",
        "  run it again with: coord tasks force down queued --reason 'it is outdated'",
    ]
    assert redone == {"up": "new", "other": None}
    assert outdated_tasks(world) == []
    assert broken(world.store) == []


def test_what_runs_with_the_former_output_goes_on_and_is_outdated(world: World) -> None:
    world.submit("up", "down < up")
    world.do("up", output="old")
    world.claim("down")

    force(world, "up")
    (running,) = outdated_tasks(world)
    world.finish("down")
    world.do("up", output="new")
    (after,) = outdated_tasks(world)

    assert (running.state, running.need_state) == ("running", "queued")
    assert (after.state, after.need_state, after.attempt) == ("completed", "completed", 1)
    assert "outdated: attempt 1 used the result of up from before" in explained(world, "down")
    assert broken(world.store) == []


def test_what_fails_with_the_former_output_begins_anew_with_the_newest(world: World) -> None:
    world.submit("up", "down < up", tasks={"down": {"max_attempts": 2}})
    world.do("up", output="old")
    world.claim("down")

    force(world, "up")
    world.finish("down", Outcome.FAILED, error="exit status 1")
    world.make_due("down")
    assert world.states() == {"up": "queued", "down": "blocked"}
    assert broken(world.store) == []
    world.do("up", output="new")

    assert inputs_of(world, "down") == {"up": "new"}
    assert outdated_tasks(world) == []
    assert broken(world.store) == []


def test_what_asks_with_the_former_output_waits_for_its_answer_and_the_newest(world: World) -> None:
    world.submit("up", "down < up")
    world.do("up", output="old")
    world.claim("down")

    force(world, "up")
    world.finish("down", question="Which colour?")

    assert world.task("down").reasons.names() == ["dependencies", "question"]
    assert broken(world.store) == []


def test_what_fails_after_its_need_was_done_again_begins_anew_at_once(world: World) -> None:
    world.submit("up", "down < up", tasks={"down": {"max_attempts": 2}})
    world.do("up", output="old")
    world.claim("down")

    force(world, "up")
    world.do("up", output="new")
    world.finish("down", Outcome.FAILED, error="exit status 1")
    world.make_due("down")

    assert inputs_of(world, "down") == {"up": "new"}
    assert outdated_tasks(world) == []


def test_what_ran_although_its_need_had_failed_is_outdated_when_that_is_retried(world: World) -> None:
    world.submit("up", "begun < up", "waiting < up", tasks={"begun": {"on_dependency_failure": RUN}})
    world.fail("up")
    world.do("begun")

    world.retry("up")
    world.do("up", output="good")

    assert [(one.key, one.need) for one in outdated_tasks(world)] == [("begun", "up")]
    assert broken(world.store) == []


def test_what_was_to_run_without_its_need_and_has_not_begun_waits_for_it_when_it_is_retried(world: World) -> None:
    world.submit("up", "down < up", tasks={"down": {"on_dependency_failure": RUN}})
    world.fail("up")
    assert world.states() == {"up": "failed", "down": "queued"}

    world.retry("up")
    assert world.states() == {"up": "queued", "down": "blocked"}
    world.do("up", output="good")

    assert inputs_of(world, "down") == {"up": "good"}
    assert outdated_tasks(world) == []
    assert broken(world.store) == []


def test_what_failed_with_the_former_output_waits_for_the_newest_when_it_is_retried(world: World) -> None:
    world.submit("up", "down < up")
    world.do("up", output="old")
    world.fail("down")

    force(world, "up")
    world.retry("down")
    assert world.states() == {"up": "queued", "down": "blocked"}
    world.do("up", output="new")

    assert inputs_of(world, "down") == {"up": "new"}
    assert outdated_tasks(world) == []


def test_each_task_after_one_that_is_done_again_becomes_outdated_in_its_turn(world: World) -> None:
    world.submit("a", "b < a", "c < b")
    world.do("a", "b", "c")

    force(world, "a")
    world.do("a")
    first = [one.key for one in outdated_tasks(world)]
    force(world, "b")
    world.do("b")
    second = [one.key for one in outdated_tasks(world)]

    assert (first, second) == (["b"], ["c"])


def test_an_end_that_an_operator_takes_back_makes_what_came_of_it_outdated(world: World) -> None:
    world.submit("up", "down < up")
    world.do("up", "down")

    force(world, "up", TaskState.FAILED)

    (one,) = outdated_tasks(world)
    assert one.sentence() == "attempt 1 used the result of up from before, and up is failed now"
    assert not one.can_rerun
    assert world.task("up").state is TaskState.FAILED
    assert world.outcomes("down") == [Outcome.COMPLETED]
