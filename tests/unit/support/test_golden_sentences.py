"""Test the file of refusals' messages: keys without databases, no volatile parts, readable differences."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordination.base.errors import PlanError, Refused
from tests.support import golden_sentences
from tests.support.golden_sentences import ROOT, Recorder, key_of, normalized, read_blocks, write_blocks
from tests.support.refusals import check_refusal, check_refused, refuses

KEY = "tests/unit/test_x.py::test_y"


def recorder_instead(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Put a recorder with two stored messages in place of this test's own."""
    other = Recorder(KEY, ["No. Say yes.", "plan.yaml:3: Never."], {}, update=False)
    monkeypatch.setattr(Recorder, "current", other)
    return other


@pytest.mark.parametrize(
    ("node_id", "key"),
    [
        (KEY, KEY),
        (f"{KEY}[sqlite]", KEY),
        (f"{KEY}[postgres]", KEY),
        (f"{KEY}[postgres-a-b]", f"{KEY}[a-b]"),
        (f"{KEY}[a-sqlite]", f"{KEY}[a]"),
        (f"{KEY}[a-sqlite-b]", f"{KEY}[a-b]"),
        (f"{KEY}[sqlite:///x]", f"{KEY}[sqlite:///x]"),
        (f"{KEY}[]", f"{KEY}[]"),
    ],
)
def test_a_key_names_the_test_without_its_database(node_id: str, key: str) -> None:
    assert key_of(node_id) == key


def test_long_parameters_are_shortened_and_still_told_apart() -> None:
    one, other = (key_of(f"{KEY}[{'x' * 500}{letter}{'x' * 500}]") for letter in "ab")

    assert len(one) < len(KEY) + 120
    assert one != other


def test_what_differs_from_run_to_run_is_left_out_of_a_sentence(tmp_path: Path) -> None:
    sentence = (
        f"{tmp_path}/a of run 0190a5b0-1c2d-7e3f-8a4b-5c6d7e8f9a0b is held by process 4711 at 127.0.0.1:5432\n{ROOT}"
    )

    written = normalized(sentence, {str(tmp_path): "<tmp_path>", str(ROOT): "<repository>"})

    assert written == r"<tmp_path>/a of run <id> is held by process <pid> at 127.0.0.1:<port>\n<repository>"


def test_what_is_written_is_read_back_in_a_natural_order() -> None:
    blocks = {"t.py::a[body10]": ["Ten."], "t.py::a[body2]": ["Two.", "# Three."], "t.py::b": []}

    text = write_blocks(blocks)

    assert read_blocks(text) == {key: lines for key, lines in blocks.items() if lines}
    assert text.index("body2") < text.index("body10")


def test_the_stored_sentences_in_their_order_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = recorder_instead(monkeypatch)

    with refuses(Refused, field="answer"):
        raise Refused("No", hint="Say yes", field="answer")
    check_refusal(PlanError("Never", source="plan.yaml", line=3), PlanError, line=3)

    recorder.finish()


@pytest.mark.parametrize(
    ("error", "field", "line"),
    [
        (Refused("No", hint="Say yes", field="question"), "answer", None),
        (Refused("No", hint="Say yes", field="answer"), None, None),
        (PlanError("No", hint="Say yes", field="answer"), "answer", None),
        (Refused("No", hint="Say yes", field="answer"), "answer", 3),
        (ValueError("No. Say yes."), None, None),
    ],
)
def test_another_field_line_or_kind_fails(
    monkeypatch: pytest.MonkeyPatch, error: Exception, field: str | None, line: int | None
) -> None:
    recorder_instead(monkeypatch)

    with pytest.raises(AssertionError):
        check_refusal(error, Refused, field=field, line=line)


def test_another_sentence_fails_with_both_and_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder_instead(monkeypatch)

    with pytest.raises(pytest.fail.Exception) as failed:
        check_refusal(Refused("No", hint="Say maybe"), Refused)

    for part in ("- No. Say yes.", "+ No. Say maybe.", KEY, "tests/data/refusals.txt", "--update-refusals"):
        assert part in str(failed.value)


def test_a_refusal_without_a_stored_sentence_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = recorder_instead(monkeypatch)

    recorder.check("No. Say yes.")
    recorder.check("plan.yaml:3: Never.")

    with pytest.raises(pytest.fail.Exception) as failed:
        recorder.check("Perhaps.")

    assert "+ Perhaps." in str(failed.value)


def test_a_stored_sentence_without_its_refusal_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = recorder_instead(monkeypatch)

    recorder.check("No. Say yes.")

    with pytest.raises(pytest.fail.Exception) as failed:
        recorder.finish()

    assert "- plan.yaml:3: Never." in str(failed.value)


def test_a_part_that_varies_is_not_compared_and_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "current", Recorder(KEY, ["It is late: <…>."], {}, update=False))

    check_refusal(Refused("It is late: 10:45"), Refused, varies=r"\d+:\d+")
    with pytest.raises(AssertionError):
        check_refusal(Refused("It is late"), Refused, varies=r"\d+:\d+")


@pytest.mark.parametrize(
    ("code", "err"),
    [(1, "coord: No. Say yes.\n"), (2, "No. Say yes.\n"), (2, "coord: No.\ncoord: Say yes.\n"), (2, "")],
)
def test_a_command_that_says_more_than_one_line_or_ends_otherwise_fails(
    monkeypatch: pytest.MonkeyPatch, code: int, err: str
) -> None:
    recorder_instead(monkeypatch)

    class Ended:
        pass

    ended = Ended()
    ended.code, ended.err = code, err

    with pytest.raises(AssertionError):
        check_refused(ended)


@pytest.mark.parametrize(("all_collected", "left"), [(True, {"kept", "new"}), (False, {"kept", "new", "old"})])
def test_an_update_removes_sentences_only_of_tests_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, all_collected: bool, left: set[str]
) -> None:
    here = Path(__file__).relative_to(ROOT).as_posix()
    name = f"{here}::test_a_key_names_the_test_without_its_database"
    stored = {f"{name}[old]": ["A."], f"{name}[kept]": ["B."], f"{KEY}[a]": ["C."], f"{here}::test_absent": ["D."]}
    monkeypatch.setattr(golden_sentences, "FILE", tmp_path / "refusals.txt")
    golden_sentences.FILE.write_text(write_blocks(stored), encoding="utf-8")
    plugin = golden_sentences.GoldenSentences(update=True, some_parameters=not all_collected)

    plugin.take({f"{name}[new]": ["N."]}, collected=[f"{name}[new]", f"{name}[kept]"] if all_collected else [])

    assert set(plugin.updated()) == {f"{name}[{parameter}]" for parameter in left}
