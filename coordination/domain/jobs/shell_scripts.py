"""Detects values that a command would run as a script, in the shell itself or in another interpreter.

A value is harmless as an argument of most programs. It would run as the script of ``sh -c``, ``eval``, ``python -c`` or
``ssh``, also where another program starts these: ``env``, ``timeout 5``, ``xargs``, a pipe.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

MARK = "\0"
"""The placeholder of one value. No text of a plan may contain it."""

ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")

_SHELL = re.compile(r"(ba|da|k|mk|pdk|z|c|tc|fi|ya|r|rba|x?on)?sh|ash|nu|pwsh|powershell")
_INTERPRETER = re.compile(
    r"(python|pypy|perl|ruby|node|nodejs|deno|bun|php|lua|luajit|tclsh|expect|osascript|Rscript|julia|groovy|guile"
    r"|elixir|ghci?|[gmn]?awk|g?sed)[\d.]*"
)
"""Programs that read a script from their command line, a file or their input."""

_CLIENT = re.compile(r"(psql|sqlite3|mysql|mariadb|gdb|vim?|nvim|ex|emacs|git|scala|erl|irb|octave|tmux|screen)[\d.]*")
"""Programs that accept a script only as an option."""

_SCRIPT_IN_OPTION = re.compile(r"--?(e|c|E|r|p|pe|ne|eval|exec|execute|expression|command|print|run|source)|-\w*[ceE]")
_COMMAND_IN_OPTION = re.compile(r"--?([\w-]+-)?(exec|execdir|ok|okdir|command|cmd|eval|shell|rsh|split-string)")
# Builtins that run their arguments or evaluate them: bash runs commands even where it expects a number.
_EVALUATING = frozenset(
    {
        *("eval", "trap", "alias", "let", "[[", "declare", "typeset", "source", ".", "bind", "complete", "compgen"),
        *("mapfile", "readarray", "read", "getopts", "unset", "fc", "coproc", "script", "at", "batch"),
    }
)
# Programs that run their arguments in another shell.
_RUN_IN_OTHER_SHELL = frozenset(
    {"eval", "ssh", "slogin", "rsh", "sshpass", "autossh", "mosh", "su", "runuser", "watch", "parallel"}
)
# Programs that start the command in their arguments.
_STARTING = frozenset(
    {
        *("env", "timeout", "nice", "ionice", "setsid", "sudo", "doas", "stdbuf", "chroot", "unshare", "nsenter"),
        *("xargs", "flock", "strace", "ltrace", "taskset", "chrt", "setpriv", "prlimit", "systemd-run", "busybox"),
        *("toybox", "caffeinate", "unbuffer", "entr", "bwrap", "firejail", "proot", "fakeroot", "xvfb-run", "numactl"),
    }
)
# Programs that start a command after arguments of their own.
_STARTING_LATER = frozenset(
    {
        *("find", "fd", "docker", "podman", "nerdctl", "kubectl", "lxc", "machinectl", "uv", "uvx", "poetry", "pipenv"),
        *("npx", "npm", "conda", "nix", "nix-shell", "vagrant", "multipass", "wsl", "make"),
    }
)
_TAKES_A_WORD_FIRST = frozenset({"timeout", "flock", "taskset", "chrt", "chroot"})
# Words after which the name of a command still follows.
LEADING = frozenset(
    {
        *("if", "then", "elif", "else", "while", "until", "do", "!", "{"),
        *("time", "exec", "command", "builtin", "nohup"),
    }
)

_TAKE_A_WORD = re.compile(
    r"-[ugnksILdDoP]|--(user|group|adjustment|kill-after|signal|max-args|max-procs|replace|chdir)"
)


def leads(word: str) -> bool:
    """Return whether the name of the command follows *word*."""
    return word in LEADING or bool(ASSIGNMENT.match(word))


def problem(words: Sequence[str], *, fed: bool) -> str | None:
    """Return why a value in *words* would run, as the end of a sentence, or None.

    *words*: of one simple command without quotes, with MARK for each value. *fed*: its standard input contains a value.
    """
    first = next((at for at, word in enumerate(words) if not leads(word)), len(words))
    words = words[first:]
    marked = any(MARK in word for word in words)
    if not words or not (marked or fed):
        return None
    names = [word.rpartition("/")[2] for word in words]
    if MARK in words[0] or (names[0] in _STARTING and _starts_a_value(names[0], words)):
        return "is in the position of a command's name"
    name = next(_evaluating(words, names, fed=fed), None)
    return None if name is None else f"would be run as a script by {name}"


def _evaluating(words: Sequence[str], names: Sequence[str], *, fed: bool) -> Iterator[str]:
    """Yield the names of the programs that would run a value."""
    starting = names[0] in _STARTING or names[0] in _STARTING_LATER
    if names[0] in _EVALUATING:
        yield names[0]
    yield from (name for name in (names if starting else names[:1]) if name in _RUN_IN_OTHER_SHELL)
    yield from (names[0] for before, word in pairwise(words) if MARK in word and _is_run(names[0], before, word))
    for at, (name, word) in enumerate(zip(names, words, strict=True)):
        if _takes_scripts(name, word):
            sure = (at == 0 or starting) and not _CLIENT.fullmatch(name) and not word.startswith(("$", "`"))
            if _runs(words[at + 1 :], fed=fed, sure=sure, shell=_SHELL.fullmatch(name) is not None):
                yield name


def _takes_scripts(name: str, word: str) -> bool:
    program = _SHELL.fullmatch(name) or _INTERPRETER.fullmatch(name) or _CLIENT.fullmatch(name)
    return program is not None or word.startswith(("$", "`"))


def _is_run(name: str, before: str, word: str) -> bool:
    """Return whether the value in *word* is the command in an option of any program."""
    option, equals, _ = word.partition("=")
    if _COMMAND_IN_OPTION.fullmatch(before) or (equals and _COMMAND_IN_OPTION.fullmatch(option)):
        return True
    return before == "-v" and name in {"[", "test", "printf"}


def _starts_a_value(name: str, words: Sequence[str]) -> bool:
    """Return whether a value is the command that the program *name* starts."""
    skip = name in _TAKES_A_WORD_FIRST
    for before, word in pairwise(words):
        if ASSIGNMENT.match(word) or _TAKE_A_WORD.fullmatch(before):
            continue
        if word.startswith("-"):
            if MARK in word and name == "env":
                return True
        elif skip:
            skip = False
        else:
            return MARK in word or (name == "env" and before == "-S")
    return False


def _runs(words: Sequence[str], *, fed: bool, sure: bool, shell: bool) -> bool:
    """Return whether a value is the script of an interpreter with the arguments *words*.

    The first word that is not an option is the script or its file. *sure*: this command starts the interpreter;
    otherwise its name may be a plain argument.
    """
    in_option, before = False, ""
    for at, word in enumerate(words):
        option = word.startswith(("-", "+")) and len(word) > 1
        of_option = re.fullmatch(r"[-+]\w*[oO]" if shell else r"-[vFWXd]", before) is not None
        before = word
        if of_option and not shell:
            continue
        if MARK in word:
            return sure or in_option
        if option:
            in_option = in_option or _SCRIPT_IN_OPTION.fullmatch(word.partition("=")[0]) is not None
        elif word != "-" and not of_option:
            return not shell and in_option and _again(words[at + 1 :])
    return fed and sure


def _again(words: Sequence[str]) -> bool:
    """Return whether a value follows a further option with a script: perl and sed accept several."""
    return any(MARK in word and before in {"-e", "--expression"} for before, word in pairwise(words))
