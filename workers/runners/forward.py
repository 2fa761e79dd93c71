"""Carries connections of a job without a network to its worker's proxy. Standard library only; run as a file.

    python forward.py SOCKET PID

It accepts on descriptor 3, hands each connection to the socket of the proxy, and ends with the process PID, the job's
program. It runs in the job's namespaces, so a job that ends it is only without a network itself.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
import time

LISTENING = 3
_MOST = 64
_CHUNK = 1 << 16
_PAUSE = 0.05
_LOOK = 60.0  # seconds after which a silent side is asked whether it is to be waited for


def relay(one: socket.socket, other: socket.socket, *, idle: float) -> None:
    """Carry bytes both ways until both sides have said all, or nothing has moved for *idle* seconds."""
    moved = [time.monotonic()]
    for each in (one, other):
        each.settimeout(min(idle, _LOOK))
    back = threading.Thread(target=_carry, args=(other, one, moved, idle), daemon=True)
    back.start()
    _carry(one, other, moved, idle)
    back.join()


def _carry(source: socket.socket, target: socket.socket, moved: list[float], idle: float) -> None:
    try:
        while data := _received(source, moved, idle):
            target.sendall(data)
            moved[0] = time.monotonic()
        _shut(socket.SHUT_WR, target)
    except OSError:
        _shut(socket.SHUT_RDWR, source, target)


def _received(source: socket.socket, moved: list[float], idle: float) -> bytes:
    while True:
        try:
            return source.recv(_CHUNK)
        except TimeoutError:
            if time.monotonic() - moved[0] >= idle:
                raise


def _shut(how: int, *sides: socket.socket) -> None:
    for side in sides:
        with contextlib.suppress(OSError):
            side.shutdown(how)


def main() -> None:
    """Accept until the program ends."""
    proxy, pid = sys.argv[1], int(sys.argv[2])
    waiter = select.poll()
    with contextlib.suppress(ProcessLookupError), socket.socket(fileno=LISTENING) as listener:
        program = os.pidfd_open(pid)
        waiter.register(program, select.POLLIN)
        waiter.register(listener, select.POLLIN)
        places = threading.BoundedSemaphore(_MOST)
        while program not in {fd for fd, _ in waiter.poll()}:
            if not places.acquire(timeout=_PAUSE):
                continue
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, proxy, places), daemon=True).start()
    os._exit(0)


def _serve(connection: socket.socket, proxy: str, places: threading.BoundedSemaphore) -> None:
    with contextlib.suppress(OSError), connection, socket.socket(socket.AF_UNIX) as outside:
        outside.connect(proxy)
        relay(connection, outside, idle=float("inf"))  # the proxy knows when it has waited long enough
    places.release()


if __name__ == "__main__":
    main()
