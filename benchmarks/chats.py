"""What agents and chats cost that wait on their models, all at once in one worker process: memory, and CPU.

Memory is that of the worker over an idle one, CPU that of the worker and its warden: both without the agents' own
processes. What those cost (a stand-in that starts ``sleep`` each second costs three times the worker) is not ours.
"""

from __future__ import annotations

import time
from datetime import timedelta

import psutil

from benchmarks import goals
from benchmarks.bench import Bench, OurStack
from benchmarks.measure import own_cpu_seconds, series
from benchmarks.report import Line
from coordination import AgentCall, ChatCall, Task, TaskState
from tests.support.model_server import Broken, running_model_server
from tests.support.processes import until

_CHATS = 64
_WINDOW = 20.0  # seconds
_SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}


def measure(bench: Bench) -> list[Line]:
    """Resident memory beyond that of the idle worker process, with one chat and with all; and CPU while all wait."""
    count = bench.size(_CHATS)
    first, memory, used = [], [], []
    for _ in range(bench.rounds):
        one, all_, cpu = _round(bench, count)
        first.append(one)
        memory.append(all_)
        used.append(cpu)
    agents = [_agents(bench, count) for _ in range(bench.rounds)]
    what = f"{count} chats that wait in one worker process"
    programs = f"{count} agents' programs that say something each second, in one worker process"
    return [
        Line(
            f"{programs}: memory over an idle one",
            "sqlite",
            series([mb for mb, _ in agents], "MB"),
            goal=goals.CHAT_MEMORY,
        ),
        Line(
            f"{programs}: its CPU, without theirs",
            "sqlite",
            series([cpu for _, cpu in agents], "% of a core"),
            goal=goals.RUNNING_OVERHEAD,
        ),
        Line("one chat in a worker process: memory over an idle one", "sqlite", series(first, "MB")),
        Line(f"{what}: memory over an idle one", "sqlite", series(memory, "MB"), goal=goals.CHAT_MEMORY),
        Line(f"{what}: its CPU", "sqlite", series(used, "% of a core"), goal=goals.RUNNING_OVERHEAD),
    ]


def _round(bench: Bench, count: int) -> tuple[float, float, float]:
    stack = OurStack("sqlite", bench.environment("sqlite", database=7))
    try:
        # The stand-in streams a word and then says nothing: a model that thinks.
        with running_model_server([Broken("Well, ", "hang")]) as server:
            worker = psutil.Process(stack.start_worker("-c", str(count)).pid)
            time.sleep(1)  # what a start leaves behind
            idle = worker.memory_info().rss
            call = ChatCall("openai:m", "How is it?", url=f"{server.url}/v1", schema=_SCHEMA)
            run = stack.submit([Task("first", call)])
            until(lambda: server.requests, within=timedelta(seconds=60), what="the first has asked")
            time.sleep(1)
            one = worker.memory_info().rss - idle
            others = stack.submit([Task(f"t{index}", call) for index in range(count - 1)])
            _await_running(others, count - 1)
            until(lambda: len(server.requests) >= count, within=timedelta(seconds=60), what="all have asked")
            time.sleep(2)
            all_ = worker.memory_info().rss - idle
            began, before = time.monotonic(), own_cpu_seconds(worker.pid)
            time.sleep(max(_WINDOW * bench.scale, 2.0))
            cpu = (own_cpu_seconds(worker.pid) - before) / (time.monotonic() - began) * 100
            for one_run in (run, others):
                one_run.cancel()
                until(lambda of=one_run: of.state.ended, within=timedelta(seconds=60), what="the chats have ended")
    finally:
        stack.close()
    return one / 1_000_000, all_ / 1_000_000, cpu


def _agents(bench: Bench, count: int) -> tuple[float, float]:
    """A stand-in for an agent's program: a line of JSON each second, as a stream of a model that works has."""
    stack = OurStack("sqlite", bench.environment("sqlite", database=7))
    says = """echo '{"type": "text", "text": "still at it"}'"""
    command = ["/bin/sh", "-c", f"while true; do {says}; sleep 1; done"]
    call = AgentCall("custom", "Work", command=command, reads={"format": "jsonl", "result": "answer"})
    try:
        worker = psutil.Process(stack.start_worker("-c", str(count)).pid)
        time.sleep(1)  # what a start leaves behind
        idle = worker.memory_info().rss
        run = stack.submit([Task(f"t{index}", call) for index in range(count)])
        _await_running(run, count)
        time.sleep(3)
        memory = worker.memory_info().rss - idle
        began, before = time.monotonic(), own_cpu_seconds(worker.pid)
        time.sleep(max(_WINDOW * bench.scale, 2.0))
        cpu = (own_cpu_seconds(worker.pid) - before) / (time.monotonic() - began) * 100
        run.cancel()
        until(lambda: run.state.ended, within=timedelta(seconds=60), what="the agents have ended")
    finally:
        stack.close()
    return memory / 1_000_000, cpu


def _await_running(run, count: int) -> None:
    until(
        lambda: run.record.counts.get(TaskState.RUNNING, 0) == count,
        within=timedelta(seconds=120),
        what=f"{count} chats run",
    )
