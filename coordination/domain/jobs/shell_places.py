"""Where in a shell command a value may stand: as a plain word or a part of one, and nowhere else.

A value is passed as a variable, and a quoted reference to it is put in its place. Inside the author's own quotes, a
comment, a here-document or backticks that would be something else, and as a command's name or script it would run (see
shell_scripts). So a value's places are found by reading the command as a shell does; where this reader is not sure (a
construct it does not follow), it refuses the place.
"""

from __future__ import annotations

import re

from coordination.domain.jobs import shell_scripts
from coordination.domain.jobs.shell_scripts import ASSIGNMENT, MARK, leads

__all__ = ["MARK", "refusal"]

_PLAIN = re.compile(r"[^ \t\n\0\\'\"`$#;&|(){}<>]+")
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
        self.kept: list[tuple[list[str], str, bool, bool, bool, str, bool]] = []  # around each open parenthesis
        self.unsure = False
        self.seen = False  # a value, anywhere up to here
        self.fed = False  # a value comes on the standard input of this command
        self._begin_command()

    def _begin_command(self) -> None:
        self.words: list[str] = []
        self.word = ""
        self.begun = False  # a word has begun; it may still be empty, as in ''
        self.redirected = ""  # the operator, when the next word is what it redirects to

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
                self.word += char
                self.at += 1
            else:
                self._unquoted(char)
        self._end_command()

    def _backslash(self) -> None:
        after = self.text[self.at + 1 : self.at + 2]
        if after == MARK:
            raise _Refuse("follows a backslash")
        if after != "\n":  # else the line goes on; no word has begun by this
            self.word += after
            self.begun = True
        self.at += 2

    def _unquoted(self, char: str) -> None:
        if char == MARK:
            self._mark()
        elif char == "'":
            self._skip_to("'", _QUOTED)
        elif char in " \t":
            self._end_word()
            self.at += 1
        elif char in "\n;&|":
            self._separator(char)
        elif char == "(":
            self.unsure = self.unsure or self.text.startswith("((", self.at)
            self._end_word()
            self.at += 1
            self._open_parenthesis("(")
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
        self.word += self.text[self.at + 1 : end]
        self.begun = True
        self.at = end + 1

    def _mark(self) -> None:
        if self.unsure:
            raise _Refuse(_UNSURE)
        if not self.redirected and not ASSIGNMENT.match(self.word) and all(map(leads, self.words)):
            raise _Refuse("stands where the command's own name is expected")
        self.seen = True
        self._part(1)

    def _separator(self, char: str) -> None:
        """The end of a simple command. What it was given comes, behind a pipe, to the next one."""
        self._end_word()
        twice = self.text.startswith((";;", "&&", "||"), self.at)
        if char == "|" and not twice:
            compound = not self.words or self.words[-1] in ("}", "done", "fi", "esac")
            fed = self.fed or (self.seen if compound else any(MARK in word for word in self.words))
        else:
            fed = self.fed and not self.words and not twice  # a line that ends with a pipe goes on
        self._end_command()
        self.fed = fed
        self._begin_command()
        self.at += 1 + twice

    def _end_command(self) -> None:
        self._end_word()
        if (why := shell_scripts.problem(self.words, fed=self.fed)) is not None:
            raise _Refuse(why)

    def _end_word(self) -> None:
        if not self.begun:
            return
        if self.redirected:
            self.fed = self.fed or (self.redirected.startswith("<") and MARK in self.word)
            self.redirected = ""
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
            self._open_parenthesis("$(")
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

    def _open_parenthesis(self, how: str) -> None:
        fed = self.fed or (how == ">(" and any(MARK in word for word in self.words))
        self.kept.append((self.words, self.word, self.begun, self.seen, self.fed, how, bool(self.redirected)))
        self.open.append("(")
        self.seen, self.fed = False, fed
        self._begin_command()

    def _close_parenthesis(self) -> None:
        self._end_command()
        self.at += 1
        if not self.open:  # the end of a case pattern
            self._begin_command()
            return
        # The innermost is a parenthesis: inside double quotes this is not called.
        self.open.pop()
        inside = self.seen
        self.words, self.word, self.begun, self.seen, self.fed, how, redirected = self.kept.pop()
        self.redirected = "<" if redirected else ""
        self.seen = self.seen or inside
        if inside and how in ("$(", "<("):  # what is printed inside, a value or made of one, is a part of this word
            if how == "$(" and not redirected and not ASSIGNMENT.match(self.word) and all(map(leads, self.words)):
                raise _Refuse("stands where the command's own name is expected")
            self.word += MARK

    def _redirect(self) -> None:
        operator = re.compile(r"<<<|<<-?|[<>]\(|>>|[<>]&|<>|>\||[<>]").match(self.text, self.at)
        found = operator.group() if operator else ""
        if found.endswith("("):
            self._part(2)
            self._open_parenthesis(found)
            return
        if found.startswith("<<") and found != "<<<":
            self.unsure = True  # the lines of a here-document follow
        if not self.word.isdigit():
            self._end_word()
        self.word, self.begun, self.redirected = "", False, found
        self.at += len(found)
