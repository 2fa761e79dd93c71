"""Drop rights, then execute a job's program. Standard library only; run as a file for every confined process.

    python sandbox_exec.py '{"write": [paths], "required": true, "env": {variables}}' PROGRAM ARGUMENT…

"hide": paths that may not be read; "read": paths that may be, even below those. "strict": the namespaces that this
process is in (see namespaces), whose mounts are checked first.

The restrictions apply to the program and its descendants and cannot be lifted: no privileges through set-user-ID
programs; files are created, changed and removed only below the named paths (Landlock); no writes to terminals and
devices except five that store nothing; no changes of limits and priorities of other processes (seccomp); no signals to
processes outside (Linux 6.12 and later). Root keeps no privileges over the machine itself. If restrictions are required
but unavailable, nothing is started.

Earlier jobs may have created links and git files here. So paths are real paths without links, and a worktree's link to
its repository counts only if the repository's record links back.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import ctypes
import errno
import json
import os
import stat
import struct
import sys
from typing import Any

NOT_STARTED = 126
"""The exit status when the program was not started."""

ENOUGH = 3
"""The first version of Landlock (Linux 6.2) that can restrict truncation."""

DELAYED = {15}
"""SIGTERM: blocked by the parent in namespaces and unblocked here, so that the job's program receives it."""

_LONGEST_LINE = 1 << 16

_PR_SET_NO_NEW_PRIVS = 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION, _PATH_BENEATH = 1, 1

_WRITE_FILE, _READ_FILE, _REMOVE_DIR, _REMOVE_FILE = 1 << 1, 1 << 2, 1 << 4, 1 << 5
_MAKE = 0b1111111 << 6  # devices, folders, files, sockets, pipes, links
_MAKE_DEVICES = 1 << 6 | 1 << 11  # allowed nowhere: root could create a device of the disk or a terminal
_IOCTL_DEVICES = 1 << 15  # from the fifth version on
_REFER, _TRUNCATE = 1 << 13, 1 << 14  # from the second and the third version on
_SCOPE_SIGNAL = 1 << 1  # from the sixth version on
_OF_FILES = _WRITE_FILE | _READ_FILE | _TRUNCATE
_DEVICES = [f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")]

_PR_CAPBSET_DROP = 24
# CAP_DAC_READ_SEARCH (opens files by number, wherever they lie), _LINUX_IMMUTABLE, _NET_ADMIN, _SYS_MODULE … _MKNOD,
# _AUDIT_CONTROL, _MAC_OVERRIDE …: no other one over files and users.
_OVER_THE_MACHINE = (2, 9, 12, 16, 17, *range(19, 28), 30, *range(32, 41))

_OPENAT2, _NO_LINKS, _HERE = 437, 0x04, -100

_PR_SET_SECCOMP, _FILTER = 22, 2
_ACTION_AVAILABLE = 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_REFUSED, _NO_CALL = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS

_TERMINALS = (0x5412, 0x541C, 0x541D)  # TIOCSTI, TIOCLINUX, TIOCCONS
_WHO_IS_SELF = (0, 1)  # PRIO_PROCESS and PRIO_PGRP; never all processes of a user
_IO_SELF = (1, 2)  # IOPRIO_WHO_PROCESS and IOPRIO_WHO_PGRP

# By the machine in os.uname(): its id for seccomp, and the numbers of its calls.
_MACHINES = {
    "x86_64": (0xC000003E, 317, 16, 302, 141, 251, (203, 144, 142, 314)),
    "aarch64": (0xC00000B7, 277, 29, 261, 140, 30, (122, 119, 118, 274)),
}
"""The calls: seccomp, ioctl, prlimit64, setpriority, ioprio_set, and those whose first argument is the process:
sched_setaffinity, sched_setscheduler, sched_setparam, sched_setattr.
"""

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _MACHINE = 0, 4
_X32 = 0x40000000  # the bit in the numbers of calls with short pointers

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """Return the kernel's version of Landlock. 0: it has none, or Landlock is disabled."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))))


def forbid_new_privileges() -> None:
    """Prevent gaining privileges. Raises OSError when the kernel refuses."""
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs cannot be set")


def drop_capabilities() -> None:
    """As root, remove the capabilities over the machine for all programs started from now on."""
    for capability in _OVER_THE_MACHINE:
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for users without capabilities


def write_only(places: list[str], *, hide: list[str], read: list[str]) -> None:
    """Restrict writing to *places*, as far as they exist. Raises OSError when the kernel refuses.

    Restricts reading of files in *hide*, unless they are below *places* or *read*.
    """
    landlock = version()
    handled = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE
    handled |= (_REFER if landlock >= 2 else 0) | (_TRUNCATE if landlock >= 3 else 0)  # noqa: PLR2004 - see above
    handled |= _IOCTL_DEVICES if landlock >= 5 else 0  # noqa: PLR2004
    handled |= _READ_FILE if hide else 0
    scoped = _SCOPE_SIGNAL if landlock >= 6 else 0  # noqa: PLR2004
    rules = _Ruleset(handled, 0, scoped)
    # Older kernels have a shorter structure.
    size = 8 if landlock < 4 else 16 if landlock < 6 else 24  # noqa: PLR2004
    ruleset = _check_result(
        _libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0)), "made"
    )
    for place in places:
        _allow(ruleset, place, handled & ~_MAKE_DEVICES & ~_IOCTL_DEVICES)
    for place in read if hide else ():
        try:
            _allow(ruleset, place, _READ_FILE)
        except OSError:  # the target of a link must be named itself
            continue
    for device in _DEVICES:
        _allow(ruleset, os.path.realpath(device), _OF_FILES & handled)
    _allow_reading_all_but(ruleset, hide)
    _check_result(_libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)), "applied")
    os.close(ruleset)


def open_place(place: str) -> int | None:
    """Return a descriptor of a path without links, or None where nothing exists. Raises OSError for a link."""
    how = _How(os.O_PATH | os.O_CLOEXEC, 0, _NO_LINKS)
    path = ctypes.c_char_p(os.fsencode(place))
    fd = int(_libc.syscall(_OPENAT2, _HERE, path, ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))))
    if fd < 0:
        error = ctypes.get_errno()
        if error in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise OSError(error, f"{place} cannot be made writable: {os.strerror(error)}")
    return fd


def _allow(ruleset: int, place: str, access: int) -> None:
    fd = open_place(place)
    if fd is None:
        return
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        access &= _OF_FILES  # the kernel refuses a rule for more
    _check_result(_add(ruleset, fd, access), f"extended by {place}")
    os.close(fd)


def _add(ruleset: int, fd: int, access: int) -> int:
    rule = _Beneath(access, fd)
    added = _libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint32(0))
    return int(added)


def _allow_reading_all_but(ruleset: int, hidden: list[str]) -> None:
    """Allow reading of every entry beside the paths to hidden places, because Landlock has only allowing rules.

    Entries that are created there later, and those of directories that cannot be listed, have no rule.
    """
    ways: dict[str, set[str]] = {}
    for place in hidden:
        while place != "/":
            place, name = os.path.split(place)  # noqa: PLW2901 - up to the root
            ways.setdefault(place, set()).add(name)
    for folder, closed in ways.items():
        if any(folder == place or folder.startswith(f"{place}/") for place in hidden):
            continue
        try:
            names = os.listdir(folder)  # noqa: PTH208
        except OSError:
            continue
        for name in names:
            if name in closed:
                continue
            try:
                fd = os.open(f"{folder}/{name}", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:  # just deleted
                continue
            _add(ruleset, fd, _READ_FILE)  # fails for entries without content, which needs no rule
            os.close(fd)


def _check_result(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"the rules of the sandbox cannot be {what}: {os.strerror(error)}")
    return result


def can_refuse_calls() -> bool:
    """Return whether this kernel and processor support filters of system calls."""
    machine = _MACHINES.get(os.uname().machine)
    if machine is None or sys.maxsize < 2**32:
        return False
    action = ctypes.c_uint32(_ERRNO)
    return int(_libc.syscall(machine[1], _ACTION_AVAILABLE, 0, ctypes.byref(action))) == 0


def refuse_calls() -> None:
    """Refuse system calls that affect other processes and terminals. Raises OSError when the kernel refuses.

    These fail with EPERM: inserting terminal input (TIOCSTI, TIOCLINUX), redirecting the console (TIOCCONS), changing
    limits, priorities, affinity and scheduling of any process but the caller's own (id 0 in these calls). All calls of
    programs for another architecture (32 bits) fail with ENOSYS.
    """
    code = _filter(os.uname().machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    if _libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the filter of system calls cannot be set")


def _filter(machine: str) -> bytes:
    """Return the BPF program of the filter. Each rule skips itself when it does not match."""
    kind, _, ioctl, prlimit64, setpriority, ioprio_set, of_a_process = _MACHINES[machine]
    code = [
        *(_step(_LOAD, _MACHINE), _step(_EQUAL, kind, 1, 0), _step(_RETURN, _NO_CALL)),
        *(_step(_LOAD, _NUMBER), _step(_AT_LEAST, _X32, 0, 1), _step(_RETURN, _NO_CALL)),
    ]
    code += _rule(ioctl, [_step(_LOAD, _argument(1)), *_any_of(_TERMINALS)])
    # Reading another process's limits is allowed: the third argument, the new limits, is then null.
    new = [_argument(2), _argument(2) + 4]
    looks = [_step(_LOAD, new[0]), _step(_EQUAL, 0, 0, 3), _step(_LOAD, new[1]), _step(_EQUAL, 0, 0, 1)]
    self_only = [_step(_LOAD, _argument(0)), _step(_EQUAL, 0, 1, 0), _step(_RETURN, _REFUSED)]
    code += _rule(prlimit64, [*looks, _step(_RETURN, _ALLOW), *self_only])
    for number in of_a_process:
        code += _rule(number, self_only)
    for number, kinds in ((setpriority, _WHO_IS_SELF), (ioprio_set, _IO_SELF)):
        which = [_step(_LOAD, _argument(0)), _step(_EQUAL, kinds[0], 2, 0), _step(_EQUAL, kinds[1], 1, 0)]
        who = [_step(_LOAD, _argument(1)), _step(_EQUAL, 0, 1, 0), _step(_RETURN, _REFUSED)]
        code += _rule(number, [*which, _step(_RETURN, _REFUSED), *who])
    return b"".join([*code, _step(_RETURN, _ALLOW)])


def _rule(number: int, body: list[bytes]) -> list[bytes]:
    """Return the steps of *body* for one call, which is allowed if *body* does not refuse it."""
    return [_step(_LOAD, _NUMBER), _step(_EQUAL, number, 0, len(body) + 1), *body, _step(_RETURN, _ALLOW)]


def _any_of(values: tuple[int, ...]) -> list[bytes]:
    return [step for value in values for step in (_step(_EQUAL, value, 0, 1), _step(_RETURN, _REFUSED))]


def _argument(index: int) -> int:
    """Return the offset of an argument's lower half. All supported machines are little-endian."""
    return 16 + 8 * index


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)


def repository_of(folder: str) -> list[str]:
    """Return the paths that git must write to commit in a directory of a repository or worktree."""
    place = os.path.realpath(folder)
    while True:
        entry = os.path.join(place, ".git")  # noqa: PTH118 - pathlib is not imported here
        if os.path.islink(entry):  # noqa: PTH114 - a job may have created the link
            return []
        if os.path.isdir(entry):  # noqa: PTH112
            return [entry]
        if os.path.isfile(entry):  # noqa: PTH113
            return _of_worktree(entry)
        if place == os.path.dirname(place):  # noqa: PTH120
            return []
        place = os.path.dirname(place)  # noqa: PTH120


def _of_worktree(entry: str) -> list[str]:
    """Return the repository of a worktree, if its record links back, which a job cannot forge."""
    try:
        record = os.path.realpath(  # relative to the worktree
            os.path.join(os.path.dirname(entry), _line_of(entry).removeprefix("gitdir:").strip())  # noqa: PTH118, PTH120
        )
        records = os.path.dirname(record)  # noqa: PTH120
        back = os.path.join(record, _line_of(os.path.join(record, "gitdir")))  # noqa: PTH118
        if os.path.basename(records) == "worktrees" and os.path.realpath(back) == entry:  # noqa: PTH119
            return [os.path.dirname(records)]  # noqa: PTH120
    except OSError:
        pass
    return []


def _line_of(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # does not block on a pipe
    try:
        return os.fsdecode(os.read(fd, _LONGEST_LINE).partition(b"\n")[0].strip())
    finally:
        os.close(fd)


def check_mounts(strict: dict[str, Any]) -> None:
    """Raise OSError when a mounted path is not the file that the worker has checked, because a job replaced it."""
    for place, expected in strict["same"].items():
        status = os.lstat(place)
        if [status.st_dev, status.st_ino] != expected:
            raise OSError(errno.ESTALE, f"{place} has become something else")


def start_forwarder(strict: dict[str, Any]) -> None:
    """If only the worker's proxy has network access, start a forwarder to it and set the proxy variables.

    The forwarder is a separate process, not a child of the program, and ends with it.
    """
    if strict["proxy"] is None:
        return
    import _socket

    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        os.environ[name] = os.environ[name.lower()] = url
    own = "localhost,127.0.0.1,::1"
    os.environ.update(NO_PROXY=own, no_proxy=own, NODE_USE_ENV_PROXY="1")
    program = str(os.getpid())
    between = os.fork()
    if between == 0:
        try:
            if os.fork() == 0:
                nothing, listening = os.open("/dev/null", os.O_RDWR), os.dup(listener.fileno())
                for fd, kept in enumerate((nothing, nothing, nothing, listening)):
                    os.dup2(kept, fd)
                os.closerange(4, os.sysconf("SC_OPEN_MAX"))
                words = [sys.executable, "-I", "-S", "-B", strict["forward"], strict["proxy"], program]
                os.execv(words[0], words)  # noqa: S606 - as above
        finally:
            os._exit(0)
    os.waitpid(between, 0)


def main() -> None:
    """Apply the restrictions, and execute the program."""
    order, *arguments = sys.argv[1:]
    policy = json.loads(order)
    os.environ.update(policy["env"])
    try:
        if (strict := policy.get("strict")) is not None:
            check_mounts(strict)
        forbid_new_privileges()
        drop_capabilities()
        if policy["required"] and version() < ENOUGH:
            _refuse_start("it would not be confined: the kernel's Landlock is too old, or not there")
        if version():
            write_only(policy["write"] + repository_of("."), hide=policy.get("hide", []), read=policy.get("read", []))
        if can_refuse_calls():
            refuse_calls()
        elif policy["required"]:
            _refuse_start("it would not be confined: the kernel does not filter system calls (seccomp)")
        if strict is not None:
            start_forwarder(strict)
    except OSError as error:
        _refuse_start(f"it would not be confined: {error.strerror}")
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, DELAYED)
    try:
        os.execvp(arguments[0], arguments)  # noqa: S606 - the purpose of this program
    except OSError as error:
        hint = "" if strict is None else "; what it needs has to be named in COORD_SANDBOX_READ"
        _refuse_start(f"{arguments[0]} cannot be started: {error.strerror}{hint}")


def _refuse_start(why: str) -> None:
    sys.stderr.write(f"not started, because {why}\n")
    sys.stderr.flush()
    os._exit(NOT_STARTED)


if __name__ == "__main__":
    main()
