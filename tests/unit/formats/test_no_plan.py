"""Test files that are no plan at all: refused in a sentence, whatever they contain."""

from __future__ import annotations

import pytest

from coordination.base.errors import PlanError
from coordination.formats.plan import MAX_BYTES
from tests.support.refusals import refuses
from tests.unit.formats.test_plan import read


class TestNotAPlan:
    @pytest.mark.parametrize(
        ("data", "line", "field"),
        [
            (b"", None, None),
            (b"# nothing\n", None, None),
            (b"- a\n", 1, None),
            (b"hello", 1, None),
            (b"version: 1\ntasks: []\n", 2, "tasks"),
            (b"version: 1\n", 1, "tasks"),
            (b"tasks: [{key: a, run: {shell: ls}}]", 1, "version"),
            (b"version: 2\ntasks: []", 1, "version"),
            (b"version: 1\n---\nversion: 1\n", 2, None),
            (b"version: 1\nname: caf\xe9\n", 2, None),
            ("version: 1\n".encode("utf-16"), None, None),
            (b"version: 1\nname: a\0b\n", 2, None),
            (b"version: 1\nname: \x1b[2J\n", 2, None),
            (b"version: 1\ntasks:\n\t- key: a\n", 3, None),
            (b"version: 1\nname: a: b\n", 2, None),
            (b"version: 1\ntasks: [{key: a\n", 3, None),
            (b"version: 1\nname: @x\n", 2, None),
            (b"version: 1\nname: x\nname: y\n", 3, None),
            (b"version: 1\nname: !!python/object:os.system x\n", 2, None),
            (b"version: 1\nname: *gone\n", 2, None),
            (b"version: 1\nname: &a [*a]\n", 2, None),
            (b"version: 1\non: push\n", 2, None),
            (b"version: 1\n5: x\n", 2, None),
            (b"version: 1\nname: {{ x }}\n", 2, None),
            (b"version: 1\nx: " + b"{a: " * 1_000_000, 2, None),
            (b"version: 1\n" + b"- " * 1_000_000, 2, None),
        ],
    )
    def test_it_is_one_sentence_with_its_line(self, data, line, field):
        with refuses(PlanError, field=field, line=line) as refused:
            read(data)

        assert len(refused.value.sentence()) < 600

    def test_millions_of_brackets_are_refused_at_their_line(self):
        with pytest.raises(PlanError) as refused:  # in libyaml's words or in ours: newer ones have a limit of their own
            read(b"version: 1\nx: " + b"[" * 5_000_000)

        assert refused.value.line == 2

    def test_a_file_of_more_than_ten_megabytes_is_not_even_parsed(self):
        with refuses(PlanError):
            read(b"version: 1\n#" + b"x" * MAX_BYTES)

    def test_aliases_of_aliases_cannot_grow_without_bound(self):
        levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12))

        with refuses(PlanError, line=8):
            read("l0: &l0 [lol, lol]\n" + levels)

    def test_a_long_text_repeated_by_aliases_counts_by_its_length(self):
        with refuses(PlanError, line=2):
            read("a: &a " + "x" * 100_000 + "\nb: [" + ", ".join(["*a"] * 200) + "]\n")
