"""Faults of Redis: killed, stopped, flushed, clients disconnected, messages deleted, repeated, late or forged."""

from __future__ import annotations

import json
import signal
from contextlib import suppress

import redis

from tests.chaos.faults.base import Fault, Hit, Later
from tests.chaos.stack import Stack

JOBS = "coord:jobs"
WAKEUPS = "coord:wakeups"


class RedisKilled(Fault):
    """kill -9 of Redis; back after a while, with its append-only file or empty."""

    name, weight, gap, lasts = "Redis killed", 1.5, 8.0, (0.2, 3.0)

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        if not stack.valkey.answers or stack.redis_disk.is_full:
            return None
        stack.valkey.down(signal.SIGKILL)
        return Hit(f"for {self.duration:.2f} s", heal=stack.valkey.up)


class RedisAwayForMinutes(RedisKilled):
    """Gone for more than a minute: all back-offs have reached their longest pause."""

    name, weight, gap, lasts = "Redis away for minutes", 0.2, 400.0, (60.0, 100.0)


class RedisStopped(Fault):
    """SIGSTOP of Redis for a while."""

    name, weight, gap, lasts = "Redis stopped", 3, 1.0, (0.05, 1.0)

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        process = stack.valkey.process
        if process is None or stack.valkey.stopped:
            return None
        process.send_signal(signal.SIGSTOP)
        stack.valkey.stopped += 1

        def heal() -> None:
            process.send_signal(signal.SIGCONT)
            stack.valkey.stopped -= 1

        return Hit(f"for {self.duration:.2f} s", heal=heal)


class _Command(Fault):
    """A fault that is a command to Redis."""

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        with suppress(redis.RedisError, OSError), stack.valkey.client() as client:
            if not stack.valkey.answers:
                return None
            return self.order(client, stack, later)
        return None

    def order(self, client: redis.Redis, stack: Stack, later: Later) -> Hit | None:
        """Send the command."""
        raise NotImplementedError


class RedisFlushed(_Command):
    """FLUSHALL."""

    name, weight = "Redis flushed", 10

    def order(self, client: redis.Redis, stack: Stack, later: Later) -> Hit | None:
        client.flushall()
        return Hit("FLUSHALL")


class ClientsThrownOut(_Command):
    """CLIENT KILL of every connection, or of the listening ones."""

    name, weight = "Redis connections killed", 8

    def order(self, client: redis.Redis, stack: Stack, later: Later) -> Hit | None:
        kind = "pubsub" if self.chance < 0.25 else "normal"
        killed = client.client_kill_filter(_type=kind, skipme=True)
        return Hit(f"{killed} of type {kind}") if killed else None


class MessagesLate(_Command):
    """Messages are taken out of the queue, and put back up to ten seconds later."""

    name, weight = "messages late", 12

    def order(self, client: redis.Redis, stack: Stack, later: Later) -> Hit | None:
        messages = client.rpop(JOBS, 1 + self.number % 20)
        if not isinstance(messages, list) or not messages:
            return None
        later(0.5 + self.chance * 9, lambda: _push(stack, messages))
        return Hit(f"{len(messages)} messages")


class MessagesTwice(_Command):
    """Messages are repeated: at once, and again later."""

    name, weight = "messages repeated", 12

    def order(self, client: redis.Redis, stack: Stack, later: Later) -> Hit | None:
        seen = client.lrange(JOBS, 0, 20)
        if not isinstance(seen, list) or not seen:
            return None
        client.lpush(JOBS, *seen)
        later(self.chance * 9, lambda: _push(stack, seen))
        return Hit(f"{len(seen)} messages")


class MessagesLost(_Command):
    """The queue of jobs is deleted, with what is in it."""

    name, weight = "messages lost", 8

    def order(self, client: redis.Redis, stack: Stack, later: Later) -> Hit | None:
        return Hit("the queue deleted") if client.delete(JOBS) else None


class MessagesForged(_Command):
    """Malformed messages from outside the product."""

    name, weight = "messages forged", 8

    def order(self, client: redis.Redis, stack: Stack, later: Later) -> Hit | None:
        wakeups = (b"not json", b"[1,2]", b'["a"]', json.dumps(["x" * 36, "y" * 36]).encode())
        client.lpush(WAKEUPS, wakeups[self.number % len(wakeups)])
        client.publish("coord:cancels", b"garbage")
        seen = client.lrange(JOBS, 0, 0)
        if isinstance(seen, list) and seen:
            with suppress(ValueError):
                message = json.loads(seen[0])
                message["body"] = "W1tdLCB7fSwge31d"  # [[], {}, {}]
                client.lpush(JOBS, json.dumps(message))
        return Hit("forged")


class RedisDiskFull(Fault):
    """No space for the append-only file."""

    name, weight, gap, lasts = "disk full for Redis", 1, 20.0, (1.0, 6.0)

    @classmethod
    def possible(cls, stack: Stack) -> bool:
        return stack.redis_disk.mounted and stack.settings.append_only

    def inject(self, stack: Stack, later: Later) -> Hit | None:
        if stack.redis_disk.is_full or stack.valkey.process is None:
            return None
        stack.redis_disk.fill()
        return Hit(f"for {self.duration:.2f} s", heal=stack.redis_disk.free)


def _push(stack: Stack, messages: list[bytes]) -> None:
    with suppress(redis.RedisError, OSError), stack.valkey.client() as client:
        client.lpush(JOBS, *messages)


KINDS: tuple[type[Fault], ...] = (
    *(RedisKilled, RedisAwayForMinutes, RedisStopped, RedisFlushed, ClientsThrownOut, RedisDiskFull),
    *(MessagesLate, MessagesTwice, MessagesLost, MessagesForged),
)
