"""Test Beads files of every dialect: read without loss, written so that they read back equal, or refused."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordination.base.errors import FormatError
from coordination.formats.beads import MOST_BYTES, read_issues, write_issues
from tests.support.refusals import refuses

DATA = Path(__file__).resolve().parents[2] / "data"
REAL = ["beads-385c0c0-issues.jsonl", "vc-f0d2be6-issues.jsonl"]


def line(issue_id="a", **fields) -> str:
    return json.dumps({"id": issue_id, "title": f"Title of {issue_id}", **fields})


def read(*lines: str):
    return read_issues("\n".join(lines).encode())


def again(issues):
    return read_issues(write_issues(issues))


class TestRealFiles:
    @pytest.mark.parametrize("name", REAL)
    def test_what_is_written_is_what_was_read_byte_for_byte(self, name):
        data = (DATA / name).read_bytes()

        issues = read_issues(data, source=name)

        assert b"".join(write_issues(issues)).strip() == data.strip()
        assert again(issues) == issues

    def test_the_essentials_are_read(self):
        issues = {issue.id: issue for issue in read_issues((DATA / REAL[0]).read_bytes())}

        wisp = issues["bd-wisp-t7gxl"]

        assert (wisp.title, wisp.status, wisp.priority, wisp.issue_type) == ("Run test suite", "open", 2, "task")
        assert wisp.ephemeral
        assert not wisp.pinned
        assert wisp.created_at == datetime(2026, 2, 28, 3, 48, 46, tzinfo=UTC)
        assert wisp.parent == "bd-wisp-3tmpl"
        assert [(edge.depends_on_id, edge.type) for edge in wisp.dependencies] == [
            ("bd-wisp-3tmpl", "parent-child"),
            ("bd-wisp-i27f2", "blocks"),
        ]
        assert wisp.record()["dependency_count"] == 0  # invalid in the file, kept, and not read


class TestLossless:
    @pytest.mark.parametrize(
        "text",
        [
            '{"title":"t","id":"a","zeta":1.0,"alpha":1,"big":123456789012345678901234567890,"e":1e5}',
            '{"id":"a","title":"t","metadata":{"x":[1,{"y":null}]},"timeout":3600000000000}',
            '{"id":"a","title":"t","comments":[{"id":7,"text":"x"},{"id":"c-8","text":"y"}]}',
            '{"id":"a","title":"t","created_at":"2025-11-23T14:29:52.419427123-08:00","issue_type":"convoy"}',
            '{"id":"a","title":"caf\\u00e9 \\ud83d\\ude00 \\\\u0000 \\/"}',
            '{"id": "a",  "title": "spaces stay"}',
            '{"id":"a","title":"twice","title":"the last one counts"}',
            '{"id":"a","title":"t","status":"tombstone","deleted_at":"2025-12-01T00:00:00Z","original_type":"bug"}',
        ],
    )
    def test_a_record_stays_letter_for_letter(self, text):
        [issue] = read(text)

        assert b"".join(write_issues([issue])) == text.encode() + b"\n"

    @given(
        st.dictionaries(
            st.text(min_size=1).filter(lambda key: key not in ("wisp", "_type", "_schema")),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers()
                | st.floats(allow_nan=False, allow_infinity=False)
                | st.text(),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
                max_leaves=8,
            ),
            max_size=5,
        ).map(lambda record: {f"x-{key}": value for key, value in record.items()}),
        st.booleans(),
    )
    def test_unknown_fields_of_any_kind_survive(self, unknown, ascii_only):
        text = json.dumps({"id": "a", **unknown, "title": "t"}, ensure_ascii=ascii_only)
        if "\0" in json.dumps(unknown, ensure_ascii=False).replace("\\u0000", "\0"):
            return  # refused, see below

        issues = read_issues(text.encode())

        assert [issue.raw for issue in issues] == [text]
        assert again(issues) == issues
        assert issues[0].record() == json.loads(text)

    def test_metadata_of_a_dependency_is_read_as_text_and_as_object(self):
        gates = [
            read(line(dependencies=[{"depends_on_id": "b", "type": "waits-for", "metadata": metadata}]))[0]
            .dependencies[0]
            .metadata
            for metadata in ('{"gate":"any-children"}', {"gate": "any-children"}, "{}", None, "no json", "[1]")
        ]

        assert gates == [{"gate": "any-children"}, {"gate": "any-children"}, {}, {}, {}, {}]

    def test_times_with_offsets_and_fractions_are_the_same_moments_in_utc(self):
        [issue] = read(
            line(
                created_at="2025-11-23T14:29:52.419427999-08:00", closed_at="0001-01-01T00:00:00+08:00", defer_until=""
            )
        )

        assert issue.created_at == datetime(2025, 11, 23, 22, 29, 52, 419427, tzinfo=UTC)
        assert issue.closed_at == datetime.min.replace(tzinfo=UTC)
        assert issue.defer_until is None

    def test_what_is_missing_or_null_has_the_value_that_its_own_reader_gives(self):
        [issue] = read(line(status=None, priority=None, issue_type="", labels=None, pinned=None, dependencies=None))

        assert (issue.status, issue.priority, issue.issue_type) == ("open", 0, "task")
        assert (issue.labels, issue.pinned, issue.dependencies) == ((), False, ())

    def test_a_priority_written_with_a_point_is_a_whole_number(self):
        assert read('{"id":"a","title":"t","priority":1.0}')[0].priority == 1

    def test_the_old_name_of_ephemeral_counts(self):
        assert read(line(wisp=True))[0].ephemeral


class TestDialects:
    def test_a_dump_of_tables_writes_flags_as_numbers_and_dependencies_apart(self):
        edge = '{"created_at":"2026-02-27T08:24:45Z","depends_on_id":"b","issue_id":"a","type":"blocks"}'
        issues = read(edge, line("a", pinned=0, ephemeral=1), line("b"), '{"issue_id":"a","label":"urgent"}')

        first = issues[0]

        assert [(e.issue_id, e.depends_on_id, e.type) for e in first.dependencies] == [("a", "b", "blocks")]
        assert first.labels == ("urgent",)
        assert (first.pinned, first.ephemeral) == (False, True)
        assert first.record()["pinned"] == 0
        assert again(issues) == issues

    def test_header_memories_comments_and_dependencies_of_others_are_kept(self):
        lines = [
            '{"_schema":"beads-jsonl/1","_sort":"stable-v1"}',
            '{"_type":"issue","id":"a","title":"t"}',
            '{"_type":"memory","key":"k","value":"v"}',
            '{"id":3,"issue_id":"a","author":"dave","text":"a comment"}',
            '{"issue_id":"elsewhere","depends_on_id":"a","type":"blocks"}',
        ]

        issues = read(*lines)

        assert [issue.id for issue in issues] == ["a"]
        assert sorted(b"".join(write_issues(issues)).decode().splitlines()) == sorted(lines)
        assert again(issues) == issues

    def test_byte_order_mark_windows_line_ends_and_blank_lines_are_no_part_of_the_issues(self):
        plain = read(line("a"), line("b"))

        dressed = read_issues(b"\xef\xbb\xbf" + f"\r\n{line('a')}\r\n\r\n  \n{line('b')}\r\n".encode())

        assert dressed == plain

    def test_lines_are_taken_as_a_stream_too(self):
        assert read_issues(iter([line("a").encode() + b"\n", line("b").encode()])) == read(line("a"), line("b"))

    @pytest.mark.parametrize("nothing", [b"", b"\n\n", b"\xef\xbb\xbf"])
    def test_an_empty_file_has_no_issues(self, nothing):
        assert read_issues(nothing) == []


def edge(target, kind="blocks", source="b"):
    return {"issue_id": source, "depends_on_id": target, "type": kind}


class TestDependenciesThatSayNothing:
    @pytest.mark.parametrize(
        ("broken", "apart"),
        [
            (edge(""), False),
            (edge(" "), False),
            (edge(None), False),
            ({"type": "blocks"}, False),
            ({}, False),
            (edge(""), True),
            (edge(None), True),
        ],
    )
    def test_one_that_names_no_issue_is_left_out_and_noted_and_kept_for_the_export(self, broken, apart):
        lines = [line("a"), line("b", dependencies=[edge("a"), *([] if apart else [broken])])]
        if apart:
            lines.insert(1, json.dumps(broken))
        notes = []

        issues = read_issues("\n".join(lines).encode(), source="issues.jsonl", note=notes.append)

        assert [(one.depends_on_id, one.type) for one in issues[1].dependencies] == [("a", "blocks")]
        assert notes == ["issues.jsonl:2: a dependency of 'b' has no target, and was ignored."]
        assert sorted(b"".join(write_issues(issues)).decode().splitlines()) == sorted(lines)
        assert again(issues) == issues

    @pytest.mark.parametrize("kind", ["blocks", "conditional-blocks", "parent-child", None, ""])
    def test_one_on_its_own_issue_is_left_out_and_noted(self, kind):
        notes = []

        (issue,) = read_issues(line("b", dependencies=[edge("b", kind)]).encode(), note=notes.append)

        assert issue.dependencies == ()
        assert notes == ["the file:1: 'b' depends on itself, and that dependency was ignored."]

    def test_an_issue_may_wait_for_its_own_children(self):
        (issue,) = read(line("b", dependencies=[edge("b", "waits-for"), edge("b", "related")]))

        assert [one.type for one in issue.dependencies] == ["waits-for", "related"]

    @pytest.mark.parametrize("kind", [None, ""])
    def test_one_without_a_type_blocks(self, kind):
        notes = []

        _, issue = read_issues(f"{line('a')}\n{line('b', dependencies=[edge('a', kind)])}".encode(), note=notes.append)

        assert [(one.depends_on_id, one.type) for one in issue.dependencies] == [("a", "blocks")]
        assert notes == ["the file:2: the dependency of 'b' on 'a' has no type: it counts as blocks."]

    def test_unknown_types_and_statuses_targets_elsewhere_and_repetitions_are_taken_as_they_are(self):
        edges = [edge("a", "mentions"), edge("gone"), edge("external:x:y"), edge("a"), edge("a")]
        notes = []

        _, issue = read_issues(
            f"{line('a', status='shelved', issue_type='spike')}\n{line('b', dependencies=edges)}".encode(),
            note=notes.append,
        )

        assert [(one.depends_on_id, one.type) for one in issue.dependencies] == [
            (one["depends_on_id"], one["type"]) for one in edges
        ]
        assert notes == []


class TestBadLines:
    @pytest.mark.parametrize(
        ("bad", "field"),
        [
            (b"{", None),
            (b'{"id":"b","title":"t"} trailing', None),
            (b"[1]", None),
            (b'"text"', None),
            (b'{"title":"t"}', "id"),
            (b'{"id":"","title":"t"}', "id"),
            (b'{"id":7,"title":"t"}', "id"),
            (b'{"id":"b"}', "title"),
            (b'{"id":"b","title":7}', "title"),
            (b'{"id":"b","title":"t","status":1}', "status"),
            (b'{"id":"b","title":"t","priority":"1"}', "priority"),
            (b'{"id":"b","title":"t","priority":1.5}', "priority"),
            (b'{"id":"b","title":"t","priority":1e999}', "priority"),
            (b'{"id":"b","title":"t","priority":true}', "priority"),
            (b'{"id":"b","title":"t","pinned":"yes"}', "pinned"),
            (b'{"id":"b","title":"t","labels":"x"}', "labels"),
            (b'{"id":"b","title":"t","labels":[1]}', "labels"),
            (b'{"id":"b","title":"t","created_at":"yesterday"}', "created_at"),
            (b'{"id":"b","title":"t","dependencies":{}}', "dependencies"),
            (b'{"id":"b","title":"t","dependencies":["a"]}', "dependencies"),
            (b'{"id":"b","title":"t","dependencies":[{"depends_on_id":7}]}', "depends_on_id"),
            (b'{"id":"b","title":"t","dependencies":[{"depends_on_id":"a","type":7}]}', "type"),
            (b'{"issue_id":"a","depends_on_id":7}', "depends_on_id"),
            (b"<<<<<<< HEAD", None),
            ('{"id":"b","title":"t"}'.encode("utf-16"), None),
            (b'{"id":"b","title":"t","x":"' + b"x" * MOST_BYTES + b'"}', None),
            (b'{"issue_id":"a","what":"ever"}', None),
            (b'{"id":"a","title":"again"}', "id"),
            (b'{"id":"b","ts":"2025-11-01T00:00:00Z","by":"dave"}', None),
            (b'{"id":"b","title":"a\\u0000b"}', None),
            (b'{"id":"b","title":"a\0b"}', None),
            (b'{"id":"b","title":"\\ud800"}', None),
            (b'{"id":"b","title":"\xff"}', None),
            (b'{"id":"b","title":"t","x":NaN}', None),
            (b'{"id":"b","title":"t","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
            (b'{"id":"b","title":"t","x":' + b"9" * 5000 + b"}", None),
        ],
    )
    def test_refuses_the_file_and_names_the_line(self, bad, field):
        with refuses(FormatError, field=field, line=2) as refusal:
            read_issues(line("a").encode() + b"\n" + bad + b"\n" + line("c").encode(), source="issues.jsonl")

        assert refusal.value.hint
        assert len(refusal.value.sentence()) < 300


@pytest.mark.full
def test_a_hundred_thousand_issues_take_a_few_times_what_their_json_takes():
    body = "x" * 200
    dependencies = [{"issue_id": "a", "depends_on_id": "b", "type": "blocks", "metadata": "{}"}]
    lines = [
        line(f"bd-{n}", description=body, status="open", created_at="2026-02-28T03:48:46.5Z", dependencies=dependencies)
        for n in range(100_000)
    ]
    data = "\n".join(lines).encode()

    started = time.process_time()
    for one in data.splitlines():
        json.loads(one)
    bare = time.process_time() - started
    started = time.process_time()
    issues = read_issues(data)

    assert len(issues) == 100_000
    assert time.process_time() - started < 40 * bare  # about 7 times; what grows with the square takes hundreds
