"""Test that concurrent writes share a transaction, that one alone does not wait, and that errors reach their thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.speed import patience
from workers.engine.committer import GroupCommit


class Book:
    """Carries requests out by doubling them; *gate* blocks the first group until other requests have queued."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.inside = 0

    def carry_out(self, asked: Sequence[int]) -> list[int]:
        self.inside += 1
        assert self.inside == 1, "two groups at once"
        self.groups.append(list(asked))
        self.entered.set()
        assert self.gate.wait(patience(30))
        self.inside -= 1
        if any(one < 0 for one in asked):
            raise ValueError(str(asked))
        if any(one > 1000 for one in asked):
            raise ConnectionError("away")
        return [2 * one for one in asked]


def test_alone_a_request_is_carried_out_in_its_own_thread() -> None:
    threads = []
    combiner: GroupCommit[int, int] = GroupCommit(
        lambda asked: threads.append(threading.current_thread()) or list(asked)
    )

    assert combiner.submit(7) == 7
    assert threads == [threading.current_thread()]


def test_requests_that_gather_meanwhile_are_carried_out_together() -> None:
    book = Book()
    combiner = GroupCommit(book.carry_out)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(combiner.submit, 1)
        assert book.entered.wait(patience(30))
        others = [pool.submit(combiner.submit, number) for number in range(2, 10)]
        while len(combiner._queue) < 8:
            threading.Event().wait(0.001)
        book.gate.set()

        assert [future.result(30) for future in [first, *others]] == [2 * number for number in range(1, 10)]
    assert book.groups[0] == [1]
    assert sorted(book.groups[1]) == list(range(2, 10))
    assert len(book.groups) == 2


def test_an_error_reaches_the_thread_whose_request_it_is() -> None:
    book = Book()
    combiner = GroupCommit(book.carry_out)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(combiner.submit, 1)
        assert book.entered.wait(patience(30))
        good, bad = pool.submit(combiner.submit, 2), pool.submit(combiner.submit, -1)
        while len(combiner._queue) < 2:
            threading.Event().wait(0.001)
        book.gate.set()

        assert (first.result(30), good.result(30)) == (2, 4)
        with pytest.raises(ValueError, match=r"\[-1\]"):
            bad.result(30)


def test_an_error_of_a_common_kind_reaches_all_at_once() -> None:
    book = Book()
    combiner = GroupCommit(book.carry_out, common=(ConnectionError,))
    with ThreadPoolExecutor(4) as pool:
        pool.submit(combiner.submit, 1)
        assert book.entered.wait(patience(30))
        both = [pool.submit(combiner.submit, number) for number in (2, 2000)]
        while len(combiner._queue) < 2:
            threading.Event().wait(0.001)
        book.gate.set()

        for future in both:
            with pytest.raises(ConnectionError):
                future.result(30)
    assert len(book.groups) == 2


def test_no_request_is_forgotten_or_carried_out_twice_whoever_leads() -> None:
    book = Book()
    book.gate.set()
    combiner = GroupCommit(book.carry_out, most=3)

    def many(start: int) -> list[int]:
        return [combiner.submit(number) for number in range(start, start + 50)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(many, range(0, 400, 50)))

    assert answers == [[2 * number for number in range(start, start + 50)] for start in range(0, 400, 50)]
    assert sorted(one for group in book.groups for one in group) == list(range(400))
    assert max(map(len, book.groups)) <= 3
