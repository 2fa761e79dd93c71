"""Forwards connections of a job without a network to its worker's proxy. Standard library only; run as a file.

    python forward.py SOCKET PID

It accepts on descriptor 3, connects each connection to the socket of the proxy, and exits with the process PID, the
job's program. It runs in the job's namespaces, so a job that ends it only loses its own network.
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
_CHECK_EVERY = 60.0  # seconds between checks of the idle time


def relay(left: socket.socket, right: socket.socket, *, idle: float) -> None:
    """Copy bytes both ways until both sides have ended, or no data has arrived for *idle* seconds."""
    last_data = [time.monotonic()]
    for side in (left, right):
        side.settimeout(min(idle, _CHECK_EVERY))
    back = threading.Thread(target=_copy, args=(right, left, last_data, idle), daemon=True)
    back.start()
    _copy(left, right, last_data, idle)
    back.join()


def _copy(source: socket.socket, target: socket.socket, last_data: list[float], idle: float) -> None:
    try:
        while data := _receive(source, last_data, idle):
            target.sendall(data)
            last_data[0] = time.monotonic()
        _shut(socket.SHUT_WR, target)
    except OSError:
        _shut(socket.SHUT_RDWR, source, target)


def _receive(source: socket.socket, last_data: list[float], idle: float) -> bytes:
    while True:
        try:
            return source.recv(_CHUNK)
        except TimeoutError:
            if time.monotonic() - last_data[0] >= idle:
                raise


def _shut(how: int, *sides: socket.socket) -> None:
    for side in sides:
        with contextlib.suppress(OSError):
            side.shutdown(how)


def main() -> None:
    """Accept connections until the program ends."""
    proxy, pid = sys.argv[1], int(sys.argv[2])
    waiter = select.poll()
    with contextlib.suppress(ProcessLookupError), socket.socket(fileno=LISTENING) as listener:
        program = os.pidfd_open(pid)
        waiter.register(program, select.POLLIN)
        waiter.register(listener, select.POLLIN)
        slots = threading.BoundedSemaphore(_MOST)
        while program not in {fd for fd, _ in waiter.poll()}:
            if not slots.acquire(timeout=_PAUSE):
                continue
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, proxy, slots), daemon=True).start()
    os._exit(0)


def _serve(connection: socket.socket, proxy: str, slots: threading.BoundedSemaphore) -> None:
    with contextlib.suppress(OSError), connection, socket.socket(socket.AF_UNIX) as target:
        target.connect(proxy)
        relay(connection, target, idle=float("inf"))  # the proxy has the idle limit
    slots.release()


if __name__ == "__main__":
    main()
