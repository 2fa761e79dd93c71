"""Functions that tests run as Python jobs, in processes of their own. Some of them misbehave."""

# ruff: noqa: T201, A002, PTH109, PTH115, PTH208 - jobs print, have parameters with these names, and use short calls

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from coordination.job import TryLater, record_usage


def say(text="hello"):
    print("said", text)
    return text


def fail():
    raise ValueError("broken\non two lines")


def wait():
    print("ready")
    time.sleep(600)


def tidy():
    def end(number, frame):
        Path("tidied").write_text("yes")
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    print("ready")
    time.sleep(600)


def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready")
    time.sleep(600)


def flood():
    for _ in range(100):
        sys.stdout.write("x" * 999_999 + "\n")


def not_utf8():
    os.write(1, b"a\xff\x00b\n")


def leave_child():
    subprocess.Popen(["sleep", "600"])
    return "done"


def leave_daemon():
    subprocess.Popen(["sh", "-c", "setsid sleep 600 & setsid sleep 601 >/dev/null 2>&1 &"]).wait()
    return "done"


def leave_forked_daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    os.wait()
    return "done"


def wait_with_daemon():
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    print("ready")
    time.sleep(600)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def environment():
    return dict(os.environ)


def spend():
    record_usage(model="m", input_tokens=3, output_tokens=1, cost_usd="0.10")


def spend_and_fail():
    spend()
    raise RuntimeError("after spending")


def later():
    raise TryLater("not now")


def crash():
    print("before the crash")
    ctypes.string_at(0)


def leave(code):
    os._exit(code)


def exit_with(code):
    sys.exit(code)


def out_of_memory():
    raise MemoryError


def recurse():
    return recurse()


def raise_base():
    raise KeyboardInterrupt


def unreadable_error():
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    raise Odd


def value(kind):
    return {"nan": float("nan"), "object": object(), "huge": "x" * 2_000_000, "odd": "a\x00b\ud800"}[kind]


def numbers():
    yield 1


async def slowly():
    await asyncio.sleep(0)
    return "slept"


def given(needs, input, extra=1):
    return {"needs": needs, "input": input, "extra": extra}


def leave_thread():
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return os.getpid()


def pid():
    return os.getpid()


def change_everything():
    os.chdir("/")
    os.environ["LEFT_BEHIND"] = "yes"
    del os.environ["PATH"]
    sys.path.insert(0, "/left/behind")
    sys.setrecursionlimit(5000)
    os.umask(0)
    sys.stdout = None
    return os.getpid()


def surroundings():
    umask = os.umask(0)
    return {
        "pid": os.getpid(),
        "cwd": os.getcwd(),
        "left_behind": os.environ.get("LEFT_BEHIND"),
        "path_set": "PATH" in os.environ,
        "sys_path": sys.path,
        "recursion": sys.getrecursionlimit(),
        "umask": umask,
    }


def change_handler():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    return os.getpid()


def close_output():
    os.close(1)
    return os.getpid()


def fork_and_return():
    if os.fork() == 0:
        return "from the copy"
    _, status = os.wait()
    return ["from the original", os.waitstatus_to_exitcode(status)]


def sockets_of_a_copy():
    if os.fork() == 0:
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")[:-1]]
        os._exit(sum(link.startswith("socket:") for link in links))
    _, status = os.wait()
    return os.waitstatus_to_exitcode(status)


def files_of_a_program():
    listing = ["ls", "-l", "/proc/self/fd"]
    return subprocess.run(listing, close_fds=False, capture_output=True, text=True, check=True).stdout


def modules():
    return sorted(sys.modules)


def note(path, text):
    with open(path, "a") as file:  # noqa: PTH123
        file.write(text + "\n")


def die(path):
    os.kill(os.getpid(), signal.SIGKILL)


def nap(seconds):
    time.sleep(seconds)


def variable(name):
    return os.environ.get(name)
