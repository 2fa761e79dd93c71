"""The interpreter process that calls Python jobs, one after the other. Standard library only; run as a file.

The protocol is described in interpreter, the worker's side.

Changes of a job to its working directory, environment, module path, standard streams, umask and recursion limit are
undone before the next one. The state of its modules stays, as in any long-lived process.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import faulthandler
import importlib
import json
import os
import resource
import signal
import sys
import time
import types
from typing import Any

_CHUNK, _HEAD = 1 << 16, 4
_ERROR_LIMIT = 1000
_TRACEBACK_LIMIT = 32_000
_MEMORY_LIMIT = 512 * 1024  # kilobytes; a larger process is not kept idle
_MOST_SIGNATURES = 1000
_CLOCK_STEP = 10_000_000  # nanoseconds: the resolution of the clock for file times
_TRY_LATER_STATUS = 75
_PR_SET_CHILD_SUBREAPER = 36
_NOT_OURS = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)


class Refusal(Exception):
    """The job cannot be called as described. The text says why."""


class Child:
    """The state of the process, now and at the start."""

    def __init__(self, channel: int, permits: int, boundary: str, source_root: str) -> None:
        self.channel, self.permits, self.permit = channel, permits, b""
        self.boundary, self.printing = boundary.encode(), os.dup(1)  # because a job may close or replace the stream
        self.buffer, self.pid = bytearray(), os.getpid()
        # Programs that a job starts do not inherit the channel; forked copies of this process close it.
        for fd in (channel, permits):
            os.set_inheritable(fd, False)
        os.register_at_fork(after_in_child=self._close_in_fork)
        if source_root not in sys.path:
            sys.path.append(source_root)
        self.path, self.environ = list(sys.path), dict(os.environ)
        self.raw_environ: dict[bytes, bytes] = {}
        self.last_env: Any = {}  # the variables of the last job
        self.streams = (sys.stdin, sys.stdout, sys.stderr)
        self.stream_files = _stream_files()
        self.umask = os.umask(0o077)
        os.umask(self.umask)
        self.recursion_limit, self.handlers = sys.getrecursionlimit(), _handlers()
        self.modules_seen: tuple[int, str] = (0, "")
        self.files: dict[str, tuple[int, int, int]] = {}
        self.signatures: dict[str, tuple[Any, Any]] = {}
        self.reaps_all = _adopt_orphans()

    def serve(self) -> None:
        """Answer requests until the channel is closed."""
        while (request := self._receive()) is not None:
            jobs, fit = iter(request.pop("jobs")), True
            while fit and (job := next(jobs, None)) and self._is_permitted(request["batch"]):
                answer, fit = self._answer(request | job)
                self._send(answer)

    def _is_permitted(self, batch: int) -> bool:
        """Take a permit of this batch, if there is one left. The next one may belong to a later batch."""
        try:
            self.permit = self.permit or os.read(self.permits, 1)
        except BlockingIOError:
            return False
        if self.permit != bytes([batch]):
            return False
        self.permit = b""
        return True

    def _close_in_fork(self) -> None:
        for fd in (self.channel, self.permits, self.printing):
            os.close(fd)
        faulthandler.unregister(signal.SIGTERM)

    def _receive(self) -> dict[str, Any] | None:
        while len(self.buffer) < max(_HEAD, end := _HEAD + int.from_bytes(self.buffer[:_HEAD], "big")):
            data = os.read(self.channel, _CHUNK)
            if not data:
                return None
            self.buffer += data
        request: dict[str, Any] = json.loads(self.buffer[_HEAD:end])
        del self.buffer[:end]
        return request

    def _send(self, answer: bytes) -> None:
        data = memoryview(len(answer).to_bytes(_HEAD, "big") + answer)
        while data:
            data = data[os.write(self.channel, data) :]

    def _answer(self, request: dict[str, Any]) -> tuple[bytes, bool]:
        """Run a job. Return the answer, and whether this process can run another job."""
        if self._is_stale():
            return _frame({"state": "stale"}, None), False
        began, self.started = time.time_ns(), time.perf_counter()
        output = None
        try:
            self._prepare(request)
            output = self._call(request)
            reply: dict[str, Any] = {"state": "completed"}
        except Refusal as refusal:
            reply = {"state": "failed", "error": _line(str(refusal)), "retryable": False}
        except BaseException as error:  # noqa: BLE001 - any exception of a job is its result
            reply = _reply_to(error)
        if os.getpid() != self.pid:  # a copy of this process, which the job forked
            os._exit(reply.get("exit_code", 0 if reply["state"] == "completed" else 1))
        reply["took"] = time.perf_counter() - self.started
        retire = self._tidy_up(request, began) or reply.get("retire")
        try:
            os.write(self.printing, self.boundary)
        except OSError:
            retire = "streams"
        if retire:
            reply["retire"] = retire
        if os.path.exists(request["env"].get("COORD_COSTS", "")):  # noqa: PTH110 - pathlib is not imported here
            reply["spent"] = True
        return _frame(reply, output), not retire

    def _prepare(self, request: dict[str, Any]) -> None:
        raw: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]  # noqa: SLF001 - comparing the public mapping costs more than a short job
        new, old, self.last_env = request["env"], self.last_env, {}
        if raw != self.raw_environ or new.keys() != old.keys():  # the first job, or the last one changed something
            new, old = self.environ | new, os.environ
            for name in os.environ.keys() - new.keys():
                del os.environ[name]
        os.environ.update({name: value for name, value in new.items() if old.get(name) != value})
        self.raw_environ, self.last_env = dict(raw), request["env"]
        sys.path[:] = request["path"] + self.path
        try:
            os.chdir(request["cwd"])
        except OSError as error:
            raise Refusal(f"The job's folder {request['cwd']} cannot be entered: {error.strerror}") from None

    def _call(self, request: dict[str, Any]) -> str:
        target = request["target"]
        function = _resolve(target)
        arguments = self._bind(target, function, request)
        self.started = time.perf_counter()  # without imports, which the next job need not repeat
        value = function(**arguments)
        if isinstance(value, types.CoroutineType):
            import asyncio

            value = asyncio.run(value)
        try:
            text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            raise Refusal(f"{target} returned what JSON cannot hold: {error}") from None
        if len(text) > request["limit"] or len(text.encode(errors="replace")) > request["limit"]:
            raise Refusal(
                f"{target} returned {len(text):,} characters of JSON; at most {request['limit']:,} bytes are kept. "
                "Write a file and return its path"
            )
        return text

    def _bind(self, target: str, function: Any, request: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments. Parameters ``input`` and ``needs`` without a value get the task's."""
        arguments: dict[str, Any] = dict(request["args"])
        cached = self.signatures.get(target)
        if cached is None or cached[0] is not function:
            import inspect

            if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
                raise Refusal(f"{target} is a generator function; a job returns its value, for example a list")
            try:
                signature = inspect.signature(function)
            except (TypeError, ValueError):
                signature = None  # some built-in functions have none
            cached = self.signatures[target] = (function, signature)
        signature = cached[1]
        if signature is None:
            return arguments
        for name in ("input", "needs"):
            parameter = signature.parameters.get(name)
            if parameter is not None and name not in arguments and parameter.kind.name in _BY_NAME:
                arguments[name] = request[name]
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise Refusal(f"{target} cannot be called with these arguments: {error}") from None
        return arguments

    def _tidy_up(self, request: dict[str, Any], began: int) -> str | None:
        """Undo the job's changes. Return why this process cannot be reused, or None."""
        reason = None
        for stream in (sys.stdout, sys.stderr, *self.streams[1:]):
            try:
                stream.flush()
            except Exception:  # noqa: BLE001 - a job may put anything there
                reason = reason if stream not in self.streams else "streams"
        sys.stdin, sys.stdout, sys.stderr = self.streams
        os.umask(self.umask)
        sys.setrecursionlimit(self.recursion_limit)
        if len(self.signatures) > _MOST_SIGNATURES:
            self.signatures.clear()
        if self._leaves_children():
            reason = "processes"
        elif _thread._count() > 0:  # noqa: SLF001 - the only count that includes threads of every origin
            reason = "threads"
        elif _stream_files() != self.stream_files:
            reason = "streams"
        elif _handlers() != self.handlers or any(signal.getitimer(signal.ITIMER_REAL)):
            reason = "signal handlers"
        elif resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _MEMORY_LIMIT < _resident():
            reason = "memory"
        elif not self._remember_modules(request, began):
            reason = "changed modules"
        return reason

    def _leaves_children(self) -> bool:
        """Return whether a process that the job started still runs, including adopted orphans of its children."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return not self.reaps_all
        return True

    def _is_stale(self) -> bool:
        """Return whether a module that was imported from the jobs' directories has changed on disk."""
        return any(_stamp(path) != stamp for path, stamp in self.files.items())

    def _remember_modules(self, request: dict[str, Any], began: int) -> bool:
        """Record the files of modules that were imported from the job's directories.

        Return False if one was written while the job ran, because it is unknown which version was read.
        """
        seen = (len(sys.modules), next(reversed(sys.modules)))
        if seen == self.modules_seen:
            return True
        self.modules_seen = seen
        roots = {os.path.abspath(folder) for folder in request["path"]}  # noqa: PTH100 - pathlib is not imported here
        roots |= {os.path.realpath(folder) for folder in request["path"]}
        prefixes = tuple(root.rstrip(os.sep) + os.sep for root in roots)
        unchanged = True
        for module in list(sys.modules.values()):
            path = getattr(module, "__dict__", {}).get("__file__")
            if not isinstance(path, str) or path in self.files or not path.startswith(prefixes):
                continue
            if any(part in path for part in _NOT_OURS):
                continue
            self.files[path] = stamp = _stamp(path)
            unchanged = unchanged and stamp[0] < began - _CLOCK_STEP
        return unchanged


_BY_NAME = ("POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY")


def _resolve(target: str) -> Any:
    """Return the function named by ``module:qualified.name``."""
    name, _, path = target.partition(":")
    module = sys.modules.get(name)
    if module is None:
        importlib.invalidate_caches()
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(error.name + ".")):
                raise Refusal(
                    f"There is no module {error.name!r} for {target}; looked in {', '.join(sys.path[:3])} "
                    "and the installed packages"
                ) from None
            raise
        except SyntaxError as error:
            raise Refusal(f"{target} cannot be imported: SyntaxError: {error}") from None
    value: Any = module
    for part in path.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise Refusal(f"The module {name!r} has no function {path!r}{_similar(module, path)}") from None
    if not callable(value):
        raise Refusal(f"{target} is not a function but a value of type {type(value).__name__}")
    return value


def _resident() -> int:
    """Return the current resident memory in kilobytes. The peak (maxrss) includes that of the parent process."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - pathlib is not imported here
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


def _similar(module: Any, path: str) -> str:
    import difflib

    close = difflib.get_close_matches(path, [name for name in vars(module) if not name.startswith("_")], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _reply_to(error: BaseException) -> dict[str, Any]:
    """Return the answer for an exception of the job."""
    if isinstance(error, SystemExit):
        code = error.code
        if code is None or code == 0:
            return {"state": "completed", "exit_code": 0}
        if not isinstance(code, int):
            return {"state": "failed", "error": _line(str(code)), "exit_code": 1}
        state = "deferred" if code == _TRY_LATER_STATUS else "failed"
        return {"state": state, "error": f"exit status {code}", "exit_code": code}
    name, text = type(error).__name__, _text_of(error)
    line = _line(f"{name}: {text}" if text else name)
    if any(kind.__module__ == "coordination.job" and kind.__name__ == "TryLater" for kind in type(error).__mro__):
        return {"state": "deferred", "error": line}
    reply = {"state": "failed", "error": line, "traceback": _traceback_of(error)}
    if isinstance(error, MemoryError):
        reply["retire"] = "memory"
    return reply


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a job's exception may have any __str__
        return "(its text cannot be shown)"


def _traceback_of(error: BaseException) -> str:
    import traceback

    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
    except Exception:  # noqa: BLE001 - as above
        return ""
    half = _TRACEBACK_LIMIT // 2
    return text if len(text) <= _TRACEBACK_LIMIT else f"{text[:half]}\n…\n{text[-half:]}"


def _line(text: str) -> str:
    line = " ".join(text[: 4 * _ERROR_LIMIT].split())
    return line if len(line) <= _ERROR_LIMIT else line[: _ERROR_LIMIT - 1] + "…"


def _frame(reply: dict[str, Any], output: str | None) -> bytes:
    """Return the answer as bytes. *output* is JSON already."""
    text = json.dumps(reply)
    # A lone surrogate becomes the escape that JSON has for it.
    return text[:-1].encode() + b',"output":' + (output or "null").encode(errors="backslashreplace") + b"}"


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - as above
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _stream_files() -> list[tuple[int, int]]:
    try:
        return [(status.st_dev, status.st_ino) for status in map(os.fstat, range(3))]
    except OSError:
        return []


def _handlers() -> list[Any]:
    return [_signal.getsignal(number) for number in _SIGNALS]  # without signal's wrapping in enums


_SIGNALS = sorted(int(number) for number in signal.valid_signals())


def _adopt_orphans() -> bool:
    """Become the parent of orphaned descendants, so that they are detected. Return whether that is supported."""
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def main() -> None:
    faulthandler.enable()  # log a Python traceback on a crash
    faulthandler.register(signal.SIGTERM, chain=True)  # and when a job is stopped
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    Child(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]).serve()


if __name__ == "__main__":
    main()
