"""Data that is written to Redis, with and without the key: it is refused and dropped, and valid work continues."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import redis
from hypothesis import strategies as st

from coordination.api.runs import Run
from coordination.base.ids import new_id
from coordination.domain.plans.plans import Task
from coordination.domain.tasks.tasks import RunState
from coordination.settings import load_settings
from tests.fuzz.driver import drive
from tests.fuzz.values import spoiled, spoiled_lines, texts, values
from tests.support.apps import app_of
from tests.support.fleet import Fleet
from tests.support.processes import until

_WORK_EVERY = 250
_MOST_LINES = 2_000
_MOST_LOG = 4_000_000

_QUEUES = ("jobs", "supervise")
_CHANNELS = {"coord:cancels": "coord:cancels", "coord:/0.celery.pidbox": "celery.pidbox"}
"""Channel -> the place for which what is sent there is signed."""

_KEYS = [
    *("jobs", "supervise", "wakeups", "unacked", "unacked_index", "unacked_mutex", "_kombu.binding.jobs"),
    *("_kombu.binding.supervise", "_kombu.binding.celery.pidbox", "_kombu.binding.celery", "wake:x"),
]
_HEADERS: Mapping[str, Any] = {
    "lang": "py",
    "task": "coordination.run",
    "id": "1",
    "root_id": "1",
    "retries": 0,
    "eta": None,
    "expires": None,
    "timelimit": [None, None],
    "argsrepr": "",
    "kwargsrepr": "",
    "compression": None,
    "group": None,
    "stamps": {},
}
_IDS = [new_id() for _ in range(3)]
_CALLS = [
    ("coordination.run", [_IDS[0], [[_IDS[1], 1], [_IDS[2], 2]]]),
    ("coordination.tick", [_IDS[0], _IDS[1]]),
    ("coordination.sweep", []),
    ("coordination.retain", []),
]
_CONTROLS = [{"method": "ping", "arguments": {}, "destination": None, "pattern": None, "matcher": None, "ticket": "t"}]


@dataclass(frozen=True, slots=True)
class Written:
    """One write: *how* and *where*, *data*, and whether it has a valid signature."""

    how: str
    where: str
    data: bytes
    signed: bool = False


def envelope(call: tuple[str, list[Any]], body: Any, headers: Any) -> dict[str, Any]:
    """Return a message of Celery's."""
    coded = base64.b64encode(json.dumps(body).encode("utf-8", "surrogatepass")).decode()
    place = {"exchange": "", "routing_key": "jobs"}
    return {
        "body": coded,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {**headers, "task": call[0]} if isinstance(headers, dict) else headers,
        "properties": {"delivery_info": place, "body_encoding": "base64", "delivery_tag": "t", "priority": 0},
    }


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    call = draw(st.sampled_from(_CALLS))
    body = draw(spoiled([call[1], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]))
    headers = draw(st.one_of(st.just(dict(_HEADERS)), spoiled(dict(_HEADERS), most=2)))
    return draw(spoiled_lines(envelope(call, body, headers)))


_queued = st.builds(Written, st.sampled_from(["lpush", "rpush"]), st.sampled_from(_QUEUES), _messages(), st.booleans())
_nudges = st.builds(Written, st.just("lpush"), st.just("wakeups"), spoiled_lines([_IDS[0], _IDS[1]]), st.booleans())
_cancels = spoiled_lines([[_IDS[0], 1], [_IDS[1], 2]])
_controls = st.sampled_from(_CONTROLS).flatmap(
    lambda one: st.one_of(
        spoiled(one).map(lambda body: envelope(("x", []), body, {})).flatmap(spoiled_lines), _messages()
    )
)
_published = st.one_of(
    st.builds(Written, st.just("publish"), st.just("coord:cancels"), _cancels, st.booleans()),
    st.builds(Written, st.just("publish"), st.just("coord:/0.celery.pidbox"), _controls, st.booleans()),
)
_keys = st.builds(
    Written, st.sampled_from(["set", "hset", "sadd", "zadd", "lpush"]), st.sampled_from(_KEYS), st.binary(max_size=20)
)
_garbage = st.builds(
    Written,
    st.just("lpush"),
    st.sampled_from([*_QUEUES, "wakeups"]),
    st.one_of(
        st.binary(max_size=60),
        values.map(lambda value: json.dumps(value).encode()),
        texts.map(lambda text: text.encode("utf-8", "surrogatepass")),
    ),
    st.booleans(),
)
written = st.one_of(_queued, _queued, _queued, _nudges, _published, _keys, _garbage)


class Messages:
    """A worker, a Redis to write to, and tasks that must complete."""

    def __init__(self, fleet: Fleet, client: redis.Redis) -> None:
        self.fleet = fleet
        self.client = client
        self.worker = fleet.worker("-c", "2")
        assert fleet.co.runtime.wakeups is not None
        self.signatures = fleet.co.runtime.wakeups.signatures
        self.count = 0
        self.works()

    def check(self, one: Written) -> None:
        """Write one thing, and check that it disappears and the worker stays."""
        self.count += 1
        data = self._signed(one) if one.signed else one.data
        key = one.where if one.how == "publish" else f"coord:{one.where}"
        if one.how in {"set", "hset", "sadd", "zadd"} or one.where not in (*_QUEUES, "wakeups", *_CHANNELS):
            self.client.delete(key)
        match one.how:
            case "hset":
                self.client.hset(key, data, "x")
            case "zadd":
                self.client.zadd(key, {data: 0})
            case how:
                getattr(self.client, how)(key, data)
        until(self.settled, what=f"{one} is taken")
        assert self.worker.exit_code is None, self.worker.output[-3000:]
        if self.count % _WORK_EVERY == 0:
            self.works()

    def settled(self) -> bool:
        """Return whether all queues are empty, and no key of one has a wrong type."""
        return all(self.client.type(f"coord:{name}") == b"none" for name in (*_QUEUES, "wakeups"))

    def works(self) -> None:
        """Submit a valid plan, and check that it completes."""
        run: Run = self.fleet.submit(Task("job", {"shell": "echo fine"}))
        assert run.wait(timeout=60) is RunState.COMPLETED, self.worker.output[-3000:]

    def end(self) -> None:
        """Check that work and control continue, that nothing was put back, and that the log is short."""
        self.works()
        with app_of(load_settings(self.fleet.env)) as app:
            until(lambda: app.control.ping(timeout=1), what="an answer to a right control command")
        output = self.worker.output
        assert self.worker.exit_code is None
        assert "Unrecoverable" not in output, output[-3000:]
        assert output.count("worker process begun") <= 1, output[-3000:]
        # A client with the key may send an unknown command: Celery reports it, as it does for people.
        assert output.count("Traceback") == output.count("pidbox command error"), output[-5000:]
        assert output.count("\n") < _MOST_LINES, f"{output.count(chr(10))} lines in the log, the last: {output[-3000:]}"
        assert len(output) < _MOST_LOG
        until(self.settled, what="all is taken")

    def _signed(self, one: Written) -> bytes:
        text = one.data.decode("utf-8", "replace")
        if not text:
            return one.data
        place = _CHANNELS.get(one.where, "coord:wakeups" if one.where == "wakeups" else one.where)
        return self.signatures.sign(place, text).encode()


def fuzz(fleet: Fleet, *, seed: int, inputs: int) -> int:
    """Write so many things to the Redis of a worker."""
    with ExitStack() as open_:
        client = open_.enter_context(redis.Redis.from_url(fleet.env["COORD_REDIS_URL"]))
        created = Messages(fleet, client)
        count = drive(written, created.check, seed=seed, inputs=inputs)
        created.end()
        return count
