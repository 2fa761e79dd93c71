"""Lets threads that want to write at the same time share one transaction.

Whoever comes first leads: it carries out its own request with all that have gathered, and hands the lead to one of
those that came meanwhile. Alone, a thread pays nothing: no queue, no other thread. Many together pay for one commit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Waiting(Generic[Asked, Answer]):
    asked: Asked
    woken: threading.Lock = field(default_factory=threading.Lock)
    done: bool = False
    answer: Answer | None = None
    error: BaseException | None = None


class GroupCommit(Generic[Asked, Answer]):
    """One place to write. *carry_out* gets the requests that gathered, at most *most*, and returns as many answers.

    If it raises, the requests of that group are carried out one by one, so that an error reaches only its own thread;
    an error of the kinds *common* is everybody's, and reaches all at once.
    """

    def __init__(
        self,
        carry_out: Callable[[Sequence[Asked]], Sequence[Answer]],
        *,
        common: tuple[type[BaseException], ...] = (),
        most: int = 64,
    ) -> None:
        self._carry_out = carry_out
        self._common = common
        self._most = most
        self._lock = threading.Lock()
        self._gathered: list[_Waiting[Asked, Answer]] = []
        self._led = False

    def ask(self, asked: Asked) -> Answer:
        """Have *asked* carried out, alone or with others; raises what that raised."""
        mine: _Waiting[Asked, Answer] = _Waiting(asked)
        with self._lock:
            self._gathered.append(mine)
            leads, self._led = not self._led, True
            if not leads:
                mine.woken.acquire()
        if not leads:
            mine.woken.acquire()  # until it is done, or the lead was handed to this thread
        if not mine.done:
            self._lead(mine)
        if mine.error is not None:
            raise mine.error
        return mine.answer  # type: ignore[return-value]

    def _lead(self, mine: _Waiting[Asked, Answer]) -> None:
        with self._lock:
            self._gathered.remove(mine)
            group = [mine, *self._gathered[: self._most - 1]]
            del self._gathered[: self._most - 1]
        try:
            self._answer(group)
        finally:
            with self._lock:
                successor = self._gathered[0] if self._gathered else None
                self._led = successor is not None
            if successor is not None:
                successor.woken.release()
            for waiting in group:
                waiting.done = True
                if waiting is not mine:
                    waiting.woken.release()

    def _answer(self, group: Sequence[_Waiting[Asked, Answer]]) -> None:
        try:
            answers = self._carry_out([waiting.asked for waiting in group])
            for waiting, answer in zip(group, answers, strict=True):
                waiting.answer = answer
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that asked
            if len(group) == 1 or isinstance(error, self._common):
                for waiting in group:
                    waiting.error = error
                return
            for waiting in group:
                self._answer([waiting])
