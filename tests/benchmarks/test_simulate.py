"""Test the fleet's model: it matches queueing theory, loses nothing, and refuses bad numbers."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulate import times
from benchmarks.simulate.__main__ import main
from benchmarks.simulate.kernel import Process, Server, SharedFlush, Simulation
from benchmarks.simulate.model import Fleet, World
from benchmarks.simulate.times import OPERATIONS, Cost, Operation, ServiceTimes


def free_of_cost(**costs: Operation) -> ServiceTimes:
    operations = dict.fromkeys(OPERATIONS, Operation()) | costs
    return ServiceTimes(operations, flush=0.001, redis_trip=0.0, contention=1.0, about="made up")


class TestKernel:
    @pytest.mark.parametrize("load", [0.3, 0.7])
    def test_random_arrivals_at_one_server_wait_as_long_as_the_formula_says(self, load: float) -> None:
        simulation, chance, waits = Simulation(), random.Random(7), []  # noqa: S311
        server = Server(simulation, 1)

        def customer() -> Process:
            came = simulation.now
            yield server
            waits.append(simulation.now - came)
            yield 1.0
            server.release()

        def arrivals() -> Process:
            while True:
                yield chance.expovariate(load)
                simulation.start(customer())

        simulation.start(arrivals())
        simulation.run(100_000)

        assert sum(waits) / len(waits) == pytest.approx(load / (2 * (1 - load)), rel=0.06)  # M/D/1
        assert server.busy() / simulation.now == pytest.approx(load, rel=0.02)

    def test_places_are_given_in_the_order_of_coming_and_never_too_many(self) -> None:
        simulation, order, most = Simulation(), [], []
        server = Server(simulation, 2)

        def customer(name: int) -> Process:
            yield server
            most.append(server.used)
            yield 1.0
            order.append(name)
            server.release()

        for name in range(7):
            simulation.start(customer(name))
        simulation.run(10)

        assert order == list(range(7))
        assert max(most) == 2
        assert server.used == 0

    def test_those_who_come_while_a_flush_runs_share_the_next_one(self) -> None:
        simulation, ends = Simulation(), []
        flush = SharedFlush(simulation, 1.0)

        def commit(at: float) -> Process:
            yield at
            yield flush.ask()
            ends.append((at, simulation.now))

        for at in (0.0, 0.2, 0.5, 0.9):
            simulation.start(commit(at))
        simulation.run(10)

        assert dict(ends) == {0.0: 1.0, 0.2: 2.0, 0.5: 2.0, 0.9: 2.0}
        assert flush.flushes == 2


class TestFleet:
    @pytest.mark.parametrize("projects", [1, 4])
    def test_every_task_is_done_once_and_nothing_is_held_at_the_end(self, projects: int) -> None:
        world = World(free_of_cost(), Fleet(workers=3, job=0.1, tasks=400, projects=projects))

        result = world.run(warm_up=0.0, seconds=60)

        assert world.done == result.tasks == 400
        assert not world.queue
        assert [project.out for project in world.projects] == [0] * projects
        assert result.backlog == 0
        assert [(worker.held, worker.slots.used, worker.open) for worker in world.workers] == [(0, 0, 0)] * 3

    def test_where_nothing_costs_anything_the_slots_are_the_limit(self) -> None:
        result = World(free_of_cost(), Fleet(workers=5, job=0.5)).run(warm_up=5, seconds=20)

        assert result.rate == pytest.approx(5 * 8 / 0.5, rel=0.02)
        assert result.slots > 0.97

    def test_the_database_is_used_as_much_as_its_statements_need_and_never_more(self) -> None:
        slow = free_of_cost(end_and_enqueue=Operation(database=Cost(0.0, 0.01)))

        result = World(slow, Fleet(workers=10, job=0.1, database_cores=1)).run(warm_up=5, seconds=20)

        assert result.rate == pytest.approx(100 * result.database, rel=0.03)  # the utilization law
        assert 0.8 < result.database <= 1.02

    def test_ticks_come_once_per_project_and_period_however_many_sweep(self) -> None:
        slow = free_of_cost(tick=Operation(database=Cost(0.05)))
        fleet = Fleet(workers=40, job=600.0, projects=500, database_cores=8)

        result = World(slow, fleet).run(warm_up=10, seconds=20)

        assert 0.8 * 500 / 5 < result.ticks <= 500 / 5


class TestServiceTimes:
    def test_what_was_written_is_read_again(self, tmp_path: Path) -> None:
        file = tmp_path / "times.json"
        written = free_of_cost(claim=Operation(worker=Cost(0.001, 0.0002), commits=Cost(1.0)))
        times.write(written, file)

        assert times.read(file) == written

    def test_the_kept_ones_can_be_used(self) -> None:
        assert set(times.read()["claim"].__slots__) == set(times.PARTS)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda document: document["operations"].pop("claim"), "says nothing about 'claim'"),
            (
                lambda document: document["operations"].update(claim={"worker": {"fixed": -1, "each": 0}}),
                "is -1, no number",
            ),
            (lambda document: document["operations"].update(claim={"wrkr": {"fixed": 1, "each": 0}}), "a part 'wrkr'"),
            (lambda document: document.update(flush="soon"), "'flush' is 'soon', no number of at least 0"),
            (lambda document: document.pop("operations"), "holds no operations"),
        ],
    )
    def test_a_file_that_is_something_else_is_refused_in_one_sentence(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, said: str
    ) -> None:
        file = tmp_path / "times.json"
        times.write(free_of_cost(), file)
        document = json.loads(file.read_text())
        change(document)
        file.write_text(json.dumps(document))

        assert main(["ask", "--times", str(file)]) == 2
        sentence = capsys.readouterr().err
        assert sentence.count("\n") == 1
        assert said in sentence

    def test_without_a_file_it_is_said_what_writes_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check", "--times", str(tmp_path / "none.json")]) == 2
        assert "python -m benchmarks.simulate measure writes it" in capsys.readouterr().err
