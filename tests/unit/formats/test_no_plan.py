"""Files that are no plan at all: refused in a sentence, however odd they are."""

from __future__ import annotations

import pytest

from coordination.formats.plan import MAX_BYTES
from tests.unit.formats.test_plan import refusal


class TestNotAPlan:
    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"", "The plan is empty"),
            (b"# nothing\n", "The plan is empty"),
            (b"- a\n", "plan.yaml:1: A plan is a mapping"),
            (b"hello", "A plan is a mapping"),
            (b"version: 1\ntasks: []\n", "plan.yaml:2: The plan has no tasks"),
            (b"version: 1\n", "no tasks"),
            (b"tasks: [{key: a, run: {shell: ls}}]", "Begin it with version: 1"),
            (b"version: 2\ntasks: []", "version 2 is not known"),
            (b"version: 1\n---\nversion: 1\n", "plan.yaml:2: A second document begins"),
            (b"version: 1\nname: caf\xe9\n", "plan.yaml:2: The file is not UTF-8"),
            ("version: 1\n".encode("utf-16"), "not UTF-8 but UTF-16"),
            (b"version: 1\nname: a\0b\n", "plan.yaml:2: The file holds the control character U+0000"),
            (b"version: 1\nname: \x1b[2J\n", "U+001B"),
            (b"version: 1\ntasks:\n\t- key: a\n", "plan.yaml:3: A tab stands in the indentation"),
            (b"version: 1\nname: a: b\n", "plan.yaml:2: This is not YAML"),
            (b"version: 1\ntasks: [{key: a\n", "This is not YAML"),
            (b"version: 1\nname: @x\n", "in quotes"),
            (b"version: 1\nname: x\nname: y\n", "plan.yaml:3: The key 'name' is written twice, first in line 2"),
            (b"version: 1\nname: !!python/object:os.system x\n", "plan.yaml:2: The tag"),
            (b"version: 1\nname: *gone\n", "plan.yaml:2:"),
            (b"version: 1\nname: &a [*a]\n", "contains itself"),
            (b"version: 1\non: push\n", "plan.yaml:2: The key on may be read as true"),
            (b"version: 1\n5: x\n", "The key 5 is not a text"),
            (b"version: 1\nname: {{ x }}\n", "in quotes"),
            (b"version: 1\nx: " + b"[" * 5_000_000, "nested deeper than 100 levels"),
            (b"version: 1\nx: " + b"{a: " * 1_000_000, "nested deeper than 100 levels"),
            (b"version: 1\n" + b"- " * 1_000_000, "plan.yaml:2"),
        ],
    )
    def test_it_is_one_sentence_with_its_line(self, data, says):
        assert says in refusal(data).sentence()

    def test_a_file_of_more_than_ten_megabytes_is_not_even_parsed(self):
        error = refusal(b"version: 1\n#" + b"x" * MAX_BYTES)

        assert "10,000,012 bytes; at most 10,000,000" in error.sentence()

    def test_aliases_of_aliases_cannot_grow_without_bound(self):
        levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12))

        error = refusal("l0: &l0 [lol, lol]\n" + levels)

        assert "aliases stand for more than" in error.sentence()

    def test_a_long_text_repeated_by_aliases_counts_by_its_length(self):
        error = refusal("a: &a " + "x" * 100_000 + "\nb: [" + ", ".join(["*a"] * 200) + "]\n")

        assert "aliases stand for more than" in error.sentence()
