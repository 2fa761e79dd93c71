"""Nudges over Redis: "have a look at this project" (one listener takes it) and "stop this attempt" (all hear it).

Keys (prefix ``coord:``):
    coord:nudges   list   JSON [workspace id, project id, signature]; a worker's housekeeper pops and ticks the project
    coord:cancels  pub/sub  JSON [[task id, attempt], …, signature]; the worker that runs one of them ends it
    coord:wake:WORKER  list  one element, for seconds: this worker ends, and its housekeeper need not wait for a nudge
    coord:stops    pub/sub  JSON [[task id, attempt, at once], …, signature]; its worker ends it, and hands it back
Losing any of them costs at most one sweep: supervisors tick and heartbeats tell without them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordination.base.errors import RedisUnavailable
from coordination.store.redis.signatures import Signatures

NUDGES = "coord:nudges"
CANCELS = "coord:cancels"
STOPS = "coord:stops"
_MOST_NUDGES = 10_000
_STOPS_AT_ONCE = 1000
_WAKES_FOR = 5  # seconds


def wake_key(worker_id: str) -> str:
    """The list that a worker's housekeeper looks at beside the nudges."""
    return f"coord:wake:{worker_id}"


class Wakeups:
    """One Redis client, made on first use; every verb swallows nothing and waits at most a few seconds."""

    def __init__(self, url: str, signatures: Signatures) -> None:
        """*signatures*: made with the key of the database that the nudges are about."""
        self.url = url
        self.signatures = signatures
        self._client: redis.Redis | None = None

    @property
    def client(self) -> redis.Redis:
        """The client; connects when the first command is sent."""
        if self._client is None:
            self._client = redis.Redis.from_url(
                self.url,
                socket_connect_timeout=5,
                socket_timeout=10,
                health_check_interval=15,
                retry=Retry(NoBackoff(), 1),
                decode_responses=True,
                encoding_errors="replace",  # what others put there
            )
        return self._client

    def nudge(self, projects: Iterable[tuple[str, str]]) -> None:
        """Ask some worker to look at these (workspace, project) pairs now. Raises RedisUnavailable."""
        bodies = [self.signatures.sign(NUDGES, json.dumps(pair)) for pair in projects]
        if bodies:
            self._send(lambda pipe: (pipe.lpush(NUDGES, *bodies), pipe.ltrim(NUDGES, 0, _MOST_NUDGES)))

    def cancel(self, attempts: Sequence[tuple[str, int]]) -> None:
        """Tell whoever runs these (task, attempt) pairs to end them now. Raises RedisUnavailable."""
        if attempts:
            self._publish(CANCELS, attempts)

    def stop(self, attempts: Sequence[tuple[str, int]], *, at_once: bool) -> None:
        """Tell whoever runs these (task, attempt) pairs that they are stopped. Raises RedisUnavailable.

        *at_once*: they are killed without a grace.
        """
        for start in range(0, len(attempts), _STOPS_AT_ONCE):
            some = [[task_id, number, at_once] for task_id, number in attempts[start : start + _STOPS_AT_ONCE]]
            self._publish(STOPS, some)

    def _publish(self, channel: str, items: Sequence[Any]) -> None:
        body = self.signatures.sign(channel, json.dumps(list(items)))
        self._send(lambda pipe: pipe.publish(channel, body))

    def wake(self, worker_id: str) -> None:
        """Let a worker's listeners stop waiting. Raises RedisUnavailable."""
        key = wake_key(worker_id)
        nothing = self.signatures.sign(CANCELS, "[]")
        self._send(lambda pipe: (pipe.lpush(key, ""), pipe.expire(key, _WAKES_FOR), pipe.publish(CANCELS, nothing)))

    def ping(self) -> None:
        """One trip to Redis, or RedisUnavailable with a sentence."""
        try:
            self.client.ping()
        except redis.RedisError as error:
            raise unavailable(self.url, error) from error

    def _send(self, fill: Callable[[Any], object]) -> None:
        try:
            try:
                self._try(fill)
            except redis.ResponseError as error:
                if not self.mended(error):
                    raise
                self._try(fill)
        except redis.RedisError as error:
            raise unavailable(self.url, error) from error

    def _try(self, fill: Callable[[Any], object]) -> None:
        with self.client.pipeline(transaction=False) as pipe:
            fill(pipe)
            pipe.execute()

    def mended(self, error: redis.ResponseError, worker_id: str | None = None) -> bool:
        """Whether *error* came of a key that should be a list, and is deleted now: nobody of ours wrote it."""
        keys = [NUDGES] if worker_id is None else [NUDGES, wake_key(worker_id)]
        wrong = [key for key in keys if self.client.type(key) not in {"list", "none"}]
        if "WRONGTYPE" not in str(error) or not wrong:
            return False
        self.client.delete(*wrong)
        return True

    def close(self) -> None:
        """Close the pooled connections."""
        if self._client is not None:
            self._client.close()


def unavailable(url: str, error: BaseException) -> RedisUnavailable:
    """The refusal for a Redis that does not answer, with any password left out."""
    shown = url.rpartition("@")[2] if "@" in url else url.partition("://")[2]
    return RedisUnavailable(
        f"Redis at {shown} cannot be used: {error}",
        hint="Check that it runs and that COORD_REDIS_URL names it; without COORD_REDIS_URL an own one is started",
    )
