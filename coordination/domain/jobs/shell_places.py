"""Checks where a shell command contains values: they may only be a plain word or a part of one.

A value never becomes part of the command's text: it is passed in a variable, and a quoted reference replaces it. Inside
of quotes, a comment or a here-document that reference would mean something else, and as the name of a program or as a
script the value would run (see shell_scripts). The reader below parses words, quotes, substitutions, pipes and
here-documents. It refuses all values of a command with other constructs.
"""

from __future__ import annotations

import re

from coordination.domain.jobs import shell_scripts
from coordination.domain.jobs.shell_scripts import MARK

__all__ = ["MARK", "refusal"]

_VARIABLE = r"\$(?:\w+|[#?!*@$-]|\(\((?:[^()'\"`\\#\0]|\([^()'\"`\\#\0]*\))*\)\)|(?=[\s\"/.,:;=%)]|$))"
_BACKTICKS = r"`(?:\\[^\0]|[^`\\\0])*`"
_WORD = re.compile(rf"(?:[^ \t\n\\'\"`$;&|()<>]|{_VARIABLE}|{_BACKTICKS})+")
_IN_QUOTES = re.compile(rf"(?:[^\0\\\"`$]|{_VARIABLE}|\$(?=')|{_BACKTICKS})+")
_IN_BRACES = re.compile(rf"(?:[^\0\\\"'`$}}]|{_VARIABLE}|{_BACKTICKS})+")
_SINGLE_QUOTED = re.compile(r"'[^'\0]*'")
_ESCAPED = re.compile(r"\\[^\0]", re.DOTALL)
_SUBSTITUTION = re.compile(r"[$<>]\((?!\()")
_BLANK = re.compile(r"(?:[ \t]|\\\n)+")
_COMMENT = re.compile(r"#[^\n]*")
_OPERATOR = re.compile(r"\d*(?:<<<|>>|[<>]&|<>|>\||<<-?|[<>](?!\())|\|[|&]?|&&?|;[;&]*|\n|\((?!\()|\)")
_DELIMITER = re.compile(r"[ \t]*(?:'(?P<one>\w+)'|\"(?P<two>\w+)\"|(?P<plain>\w+))(?=[\s;&|<>)]|$)")

_OPENS = frozenset({"{", "while", "until", "for", "if"})
_CLOSES = frozenset({"}", "done", "fi", "esac"})

_QUOTED = "is inside quotes"
_UNKNOWN = "is at or near syntax that cannot be checked"


class _Refuse(Exception):
    pass


def refusal(command: str) -> str | None:
    """Return why a value at a MARK in *command* is not allowed, as the end of a sentence, or None."""
    if MARK not in command:
        return None
    try:
        _CommandReader(command).commands()
    except _Refuse as refuse:
        return str(refuse)
    except RecursionError:
        return _UNKNOWN
    return None


class _Level:
    """State of the commands between two parentheses: the words of the current one, and where values are."""

    def __init__(self, fed: bool) -> None:  # noqa: FBT001 - its only argument
        self.words: list[str] = []
        self.marked = False  # a word of this command contains a value
        self.seen = False  # a command up to here contains a value
        self.fed = fed  # the standard input of this command contains a value
        self._all_fed = fed  # the standard input of all following commands contains a value

    def add(self, word: str) -> None:
        self.words.append(word)
        self.marked |= MARK in word
        self.seen |= self.marked

    def check(self) -> None:
        """Raise _Refuse when the command would run a value."""
        if (why := shell_scripts.problem(self.words, fed=self.fed)) is not None:
            raise _Refuse(why)

    def begin_command(self, operator: str) -> None:
        """Begin the command after *operator*, which may be a pipe from this one."""
        self._all_fed |= self.fed and bool(self.words) and self.words[0] in _OPENS
        if operator in ("|", "|&"):
            is_compound = not self.words or self.words[-1] in _CLOSES
            self.fed |= self.seen if is_compound else self.marked
        else:  # a line that ends with a pipe continues
            self.fed = self._all_fed or (self.fed and not self.words and operator == "\n")
        self.words, self.marked = [], False


class _CommandReader:
    """Parser of one command. A word is the text that a program would get, with MARK for each value."""

    def __init__(self, command: str) -> None:
        self.text = command
        self.at = 0
        self.documents: list[tuple[str, bool]] = []  # here-documents that begin on this line: end, whether it is quoted

    def take(self, pattern: re.Pattern[str]) -> str:
        """Consume and return what matches at the current position, or return an empty text."""
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return match[0] if match else ""

    def commands(self, *, inner: bool = False, fed: bool = False) -> bool:
        """Read up to the end or the closing parenthesis. Return whether these commands contain a value.

        *fed*: the standard input contains a value.
        """
        level = _Level(fed)
        while True:
            self.take(_BLANK)
            if MARK in self.take(_COMMENT):
                raise _Refuse("is in a comment")
            operator = self.take(_OPERATOR)
            if operator == "(":
                level.seen |= self.inside(fed=level.fed)
            elif "<" in operator or ">" in operator:
                self.redirection(operator, level)
            elif not operator and self.at < len(self.text):
                level.add(self.word(fed=level.fed or level.marked))
                if inner and level.words[-1] == "case":  # its patterns also end with parentheses
                    raise _Refuse(_UNKNOWN)
            else:
                level.check()
                if not operator or (operator == ")" and inner):
                    if self.documents or inner != (operator == ")"):
                        raise _Refuse(_UNKNOWN)
                    return level.seen
                level.begin_command(operator)
                if operator == "\n":
                    self.skip_documents()

    def redirection(self, operator: str, level: _Level) -> None:
        """Read the target of a redirection."""
        if operator.lstrip("0123456789") in ("<<", "<<-"):
            self.document()
            return
        self.take(_BLANK)
        marked = MARK in self.word(fed=level.fed)
        if marked and operator.endswith("&"):  # bash expands the name of a file after >& a second time
            raise _Refuse(f"follows {operator}")
        level.seen |= marked
        level.fed |= marked and "<" in operator

    def word(self, *, fed: bool) -> str:
        """Read one word and return its text without quotes."""
        begin, text = self.at, ""
        while self.at < len(self.text):
            if plain := self.take(_WORD):
                text += plain
            elif single_quoted := self.take(_SINGLE_QUOTED):
                text += single_quoted[1:-1]
            elif (part := self.special(fed=fed)) is not None:
                text += part
            else:
                break
        if self.at == begin:
            raise _Refuse(_QUOTED if self.text.startswith("'", self.at) else _UNKNOWN)
        return text

    def special(self, *, fed: bool) -> str | None:
        """Read quoted text, or a construct with the same meaning inside of double quotes. Return None otherwise."""
        if part := self.take(_ESCAPED):
            return part[1:].replace("\n", "")
        if self.text.startswith('"', self.at):
            return self.quoted('"', _IN_QUOTES, fed=fed)
        if self.text.startswith("${", self.at):
            self.at += 1
            return "$" + self.quoted("}", _IN_BRACES, fed=fed)
        if opening := self.take(_SUBSTITUTION):
            return MARK if self.inside(fed=fed) and opening != ">(" else opening
        return None

    def quoted(self, end: str, plain: re.Pattern[str], *, fed: bool) -> str:
        """Read from an opening quote or brace to *end*; values are allowed there only in a substitution."""
        self.at += 1
        text = ""
        while not self.text.startswith(end, self.at):
            part = self.take(plain) or self.special(fed=fed)
            if part is None:
                raise _Refuse(_QUOTED if end == '"' else _UNKNOWN)
            text += part
        self.at += 1
        return text

    def inside(self, *, fed: bool) -> bool:
        """Read the commands after an opening parenthesis. Return whether they contain a value."""
        if self.documents:
            raise _Refuse(_UNKNOWN)
        return self.commands(inner=True, fed=fed)

    def document(self) -> None:
        """Read the delimiter of a here-document, whose lines follow this one."""
        delimiter = _DELIMITER.match(self.text, self.at)
        if delimiter is None:
            raise _Refuse(_UNKNOWN)
        self.at = delimiter.end()
        self.documents.append((delimiter["one"] or delimiter["two"] or delimiter["plain"], not delimiter["plain"]))

    def skip_documents(self) -> None:
        for end, is_quoted in self.documents:
            last = re.compile(rf"^\t*{end}$", re.MULTILINE).search(self.text, self.at)
            body = self.text[self.at : last.start() if last else len(self.text)]
            if last is None or MARK in body or ("\\\n" in body and not is_quoted):
                raise _Refuse("is in a here-document" if MARK in body else _UNKNOWN)
            self.at = last.end()
        self.documents = []
