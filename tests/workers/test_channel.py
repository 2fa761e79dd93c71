"""A connection to Redis that broke while messages were fetched does not take the worker with it."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import Mock

import pytest
from kombu.transport import redis
from kombu.transport.redis import QoS

from workers.channel import ForgivingQoS, mend


def fetched(kind: type[QoS]) -> QoS:
    """What a channel knows whose connection is gone: one message was fetched, and nobody can be asked for a client."""
    channel = Mock(do_restore=True, connection=None)
    channel.conn_or_acquire.side_effect = AttributeError("'NoneType' object has no attribute 'hostname'")
    made = kind(channel)
    made._delivered["tag"] = Mock()
    made._on_collect.cancel()  # or it would be tried again at the end of this process
    return made


def test_messages_that_cannot_be_put_back_are_let_go() -> None:
    fetched(ForgivingQoS).restore_unacked_once()


@pytest.mark.parametrize("answer", ["ack", "reject"])
def test_a_message_whose_channel_was_closed_meanwhile_is_let_go(answer: str) -> None:
    getattr(fetched(ForgivingQoS), answer)("tag")


@pytest.mark.parametrize("answer", ["ack", "reject"])
def test_on_an_open_channel_what_is_wrong_is_said(answer: str) -> None:
    made = fetched(ForgivingQoS)
    made.channel.connection = Mock()

    with pytest.raises(AttributeError):
        getattr(made, answer)("tag")


@pytest.mark.parametrize("answer", [QoS.restore_unacked_once, lambda made: made.ack("tag")])
def test_the_mend_is_still_needed(answer: Callable[[QoS], None]) -> None:
    """When this fails, kombu has learnt it: take the mend away."""
    with pytest.raises(AttributeError):
        answer(fetched(QoS))


def test_every_channel_of_a_worker_is_mended() -> None:
    mend()

    assert redis.Channel.QoS is ForgivingQoS
