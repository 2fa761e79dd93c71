"""Where in a shell command a quoted value may stand: as a plain word or a part of one, and nowhere else.

``shlex.quote`` makes a value one word only where a word is expected. Inside the author's own quotes, a comment, a
here-document or backticks the same text would break out and run. So a value's places are found by reading the
command as a shell does; where this reader is not sure (a construct it does not follow), it refuses the place.
"""

from __future__ import annotations

import re

MARK = "\0"
"""Stands for one value. No text of a plan may contain it."""

_PLAIN = re.compile(r"[^ \t\n\0\\'\"`$#;&|(){}<>]+")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_OPTION_C = re.compile(r"-[a-z]*c")
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "zsh", "su"})
# They run, or compute with, the text of their words: in bash even a number's place can hold a command.
_EVALUATING = frozenset({"eval", "trap", "alias", "let", "[[", "declare", "typeset"})
# After these words a command still begins.
_LEADING = frozenset(
    ["if", "then", "elif", "else", "while", "until", "do", "!", "{", "time", "exec", "command", "nohup"]
)

_QUOTED = "stands inside quotes"
_UNSURE = "stands behind a construct of the shell in which its place cannot be told for sure"


class _Refuse(Exception):
    pass


def refusal(command: str) -> str | None:
    """Why a value cannot stand where *command* has a MARK, as the rest of a sentence; None when every place is safe."""
    if MARK not in command:
        return None
    try:
        _Reader(command).read()
    except _Refuse as refuse:
        return str(refuse)
    return None


class _Reader:
    """One pass over a command. ``words`` are those of the simple command being read, ``word`` the one not yet ended."""

    def __init__(self, command: str) -> None:
        self.text = command
        self.at = 0
        self.open: list[str] = []  # double quotes and parentheses around this place, innermost last
        self.kept: list[tuple[list[str], str, bool, bool]] = []  # the words around each open parenthesis
        self.unsure = False
        self._begin_command()

    def _begin_command(self) -> None:
        self.words: list[str] = []
        self.word = ""
        self.begun = False  # a word has begun; it may still be empty, as in ''
        self.redirected = False  # the next word names a file

    def read(self) -> None:
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "\\":
                self._backslash()
            elif char == "`":
                self._backticks()
            elif char == "$":
                self._dollar()
            elif char == '"':
                self._double_quote()
            elif self.open and self.open[-1] == '"':
                if char == MARK:
                    raise _Refuse(_QUOTED)
                self.at += 1
            else:
                self._unquoted(char)

    def _backslash(self) -> None:
        after = self.text[self.at + 1 : self.at + 2]
        if after == MARK:
            raise _Refuse("follows a backslash")
        if after == "\n":  # the line goes on; no word has begun by this
            self.at += 2
        else:
            self._part(2)

    def _unquoted(self, char: str) -> None:
        if char == MARK:
            self._mark()
        elif char == "'":
            self._skip_to("'", _QUOTED)
        elif char in " \t":
            self._end_word()
            self.at += 1
        elif char in "\n;&|":
            self._end_word()
            self._begin_command()
            self.at += 1
        elif char == "(":
            self.unsure = self.unsure or self.text.startswith("((", self.at)
            self._end_word()
            self.at += 1
            self._open_parenthesis()
        elif char == ")":
            self._close_parenthesis()
        elif char in "<>":
            self._redirect()
        elif char == "#" and not self.begun:
            end = self.text.find("\n", self.at)
            end = len(self.text) if end < 0 else end
            if MARK in self.text[self.at : end]:
                raise _Refuse("stands in a comment")
            self.at = end
        else:
            plain = _PLAIN.match(self.text, self.at)
            self._part(plain.end() - self.at if plain else 1)

    def _part(self, length: int) -> None:
        self.word += self.text[self.at : self.at + length]
        self.begun = True
        self.at += length

    def _skip_to(self, closing: str, why: str) -> None:
        """Over everything up to *closing*, in which no value may stand."""
        end = self.text.find(closing, self.at + 1)
        end = len(self.text) if end < 0 else end
        if MARK in self.text[self.at : end]:
            raise _Refuse(why)
        self._part(end + 1 - self.at)

    def _mark(self) -> None:
        if self.unsure:
            raise _Refuse(_UNSURE)
        if not self.redirected and not _ASSIGNMENT.match(self.word) and all(map(self._leads, self.words)):
            raise _Refuse("stands where the command's own name is expected")
        names = [word.rpartition("/")[2] for word in self.words if not self._leads(word)]
        script = len(names) > 1 and names[0] in _SHELLS and _OPTION_C.fullmatch(self.words[-1])
        if names and (names[0] in _EVALUATING or script):
            raise _Refuse(f"would be read as commands by {names[0]}")
        self._part(1)

    @staticmethod
    def _leads(word: str) -> bool:
        return word in _LEADING or bool(_ASSIGNMENT.match(word))

    def _end_word(self) -> None:
        if not self.begun:
            return
        if self.redirected:
            self.redirected = False
        else:
            # Inside parentheses the patterns of a case end with parentheses of their own.
            if self.word == "case" and self.open:
                self.unsure = True
            self.words.append(self.word)
        self.word, self.begun = "", False

    def _double_quote(self) -> None:
        if self.open and self.open[-1] == '"':
            self.open.pop()
        else:
            self.open.append('"')
        self.begun = True
        self.at += 1

    def _backticks(self) -> None:
        end = self.at + 1
        while end < len(self.text) and self.text[end] != "`":
            end += 2 if self.text[end] == "\\" else 1
        if MARK in self.text[self.at : end]:
            raise _Refuse("stands inside backticks")
        self._part(end + 1 - self.at)

    def _dollar(self) -> None:
        after = self.text[self.at + 1 : self.at + 2]
        if after == MARK:
            raise _Refuse("follows a dollar sign")
        if self.text.startswith("$((", self.at):
            self._arithmetic()
        elif after == "(":
            self._part(2)
            self._open_parenthesis()
        elif after == "{":
            end = self.text.find("}", self.at)
            end = len(self.text) if end < 0 else end
            inside = self.text[self.at + 2 : end]
            if MARK in inside:
                raise _Refuse("stands inside ${…}")
            self.unsure = self.unsure or any(char in inside for char in "'\"`\\${")
            self._part(end + 1 - self.at)
        else:
            # $'…' has escapes in one shell and none in another; $[…] computes in some.
            self.unsure = self.unsure or after == "[" or (after == "'" and self.open[-1:] != ['"'])
            self._part(2 if after.isalnum() or after in ("#", "$", "?", "!", "*", "@", "-", "_") else 1)

    def _arithmetic(self) -> None:
        depth, end = 0, self.at + 1
        while end < len(self.text):
            depth += {"(": 1, ")": -1}.get(self.text[end], 0)
            end += 1
            if depth == 0:
                break
        inside = self.text[self.at : end]
        if MARK in inside:
            raise _Refuse("stands inside $((…))")
        self.unsure = self.unsure or any(char in inside for char in "'\"`\\#")
        self._part(end - self.at)

    def _open_parenthesis(self) -> None:
        self.kept.append((self.words, self.word, self.begun, self.redirected))
        self.open.append("(")
        self._begin_command()

    def _close_parenthesis(self) -> None:
        self._end_word()
        self.at += 1
        if self.open:  # the innermost is a parenthesis: inside double quotes this is not called
            self.open.pop()
            self.words, self.word, self.begun, self.redirected = self.kept.pop()
        else:  # the end of a case pattern
            self._begin_command()

    def _redirect(self) -> None:
        operator = re.compile(r"<<<|<<-?|[<>]\(|>>|[<>]&|<>|>\||[<>]").match(self.text, self.at)
        found = operator.group() if operator else ""
        if found.endswith("("):
            self._part(2)
            self._open_parenthesis()
            return
        if found.startswith("<<") and found != "<<<":
            self.unsure = True  # the lines of a here-document follow
        if not self.word.isdigit():
            self._end_word()
        self.word, self.begun, self.redirected = "", False, True
        self.at += len(found)
