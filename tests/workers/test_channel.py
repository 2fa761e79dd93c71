"""A connection to Redis that broke while messages were fetched does not take the worker with it."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from kombu.transport import redis
from kombu.transport.redis import QoS

from workers.channel import ForgivingQoS, mend


def fetched(kind: type[QoS]) -> QoS:
    """What a channel knows whose connection is gone: one message was fetched, and nobody can be asked for a client."""
    channel = Mock(do_restore=True)
    channel.conn_or_acquire.side_effect = AttributeError("'NoneType' object has no attribute 'hostname'")
    made = kind(channel)
    made._delivered["tag"] = Mock()
    return made


def test_messages_that_cannot_be_put_back_are_let_go() -> None:
    fetched(ForgivingQoS).restore_unacked_once()


def test_the_mend_is_still_needed() -> None:
    """When this fails, kombu has learnt it: take the mend away."""
    with pytest.raises(AttributeError):
        fetched(QoS).restore_unacked_once()


def test_every_channel_of_a_worker_is_mended() -> None:
    mend()

    assert redis.Channel.QoS is ForgivingQoS
