"""Group commit: threads that write at the same time share one transaction.

The first thread becomes the leader. It carries out its own request with all waiting ones, then passes the lead to a
thread that arrived meanwhile. A single thread has no overhead: no queue, no second thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Pending(Generic[Request, Answer]):
    request: Request
    woken: threading.Lock = field(default_factory=threading.Lock)
    done: bool = False
    answer: Answer | None = None
    error: BaseException | None = None


class GroupCommit(Generic[Request, Answer]):
    """Groups requests. *carry_out* takes the waiting requests, at most *most*, and returns one answer for each.

    If it raises, each request of the group is carried out alone, so that only the thread at fault gets the error. An
    error of the types *common* goes to all threads of the group.
    """

    def __init__(
        self,
        carry_out: Callable[[Sequence[Request]], Sequence[Answer]],
        *,
        common: tuple[type[BaseException], ...] = (),
        most: int = 64,
    ) -> None:
        self._carry_out = carry_out
        self._common = common
        self._most = most
        self._lock = threading.Lock()
        self._queue: list[_Pending[Request, Answer]] = []
        self._has_leader = False

    def submit(self, request: Request) -> Answer:
        """Carry out *request*, alone or in a group, and return its answer. Raises what *carry_out* raises."""
        mine: _Pending[Request, Answer] = _Pending(request)
        with self._lock:
            self._queue.append(mine)
            leads, self._has_leader = not self._has_leader, True
            if not leads:
                mine.woken.acquire()
        if not leads:
            mine.woken.acquire()  # until it is done, or this thread has the lead
        if not mine.done:
            self._lead(mine)
        if mine.error is not None:
            raise mine.error
        return mine.answer  # type: ignore[return-value]

    def _lead(self, mine: _Pending[Request, Answer]) -> None:
        with self._lock:
            self._queue.remove(mine)
            group = [mine, *self._queue[: self._most - 1]]
            del self._queue[: self._most - 1]
        try:
            self._answer(group)
        finally:
            with self._lock:
                successor = self._queue[0] if self._queue else None
                self._has_leader = successor is not None
            if successor is not None:
                successor.woken.release()
            for waiting in group:
                waiting.done = True
                if waiting is not mine:
                    waiting.woken.release()

    def _answer(self, group: Sequence[_Pending[Request, Answer]]) -> None:
        try:
            answers = self._carry_out([waiting.request for waiting in group])
            for waiting, answer in zip(group, answers, strict=True):
                waiting.answer = answer
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that asked
            if len(group) == 1 or isinstance(error, self._common):
                for waiting in group:
                    waiting.error = error
                return
            for waiting in group:
                self._answer([waiting])
