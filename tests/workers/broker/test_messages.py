"""Test that messages of another version are read as far as possible, and that invalid ones get a short error."""

import pytest

from workers.broker.messages import EnqueuedMessage, read_cancels, read_enqueued_message, read_wakeup

WORKSPACE = "01890000-0000-7000-8000-000000000001"
TASK = "01890000-0000-7000-8000-000000000002"

_ID = "01a1fcab-9a60-7b69-ab72-db00f46128cb"


def test_a_doorbell_is_ids_and_attempts() -> None:
    bell = read_enqueued_message(WORKSPACE, [[TASK, 1]], {})

    assert bell == EnqueuedMessage(workspace_id=WORKSPACE, tasks=[(TASK, 1)], version=1)


def test_fields_that_a_later_release_added_are_ignored() -> None:
    bell = read_enqueued_message(
        WORKSPACE, [[TASK, 1, "urgent", {"a": 1}]], {"trace": "00-ab-cd-01", "version": 1, "rung_by": 7}
    )

    assert bell == read_enqueued_message(WORKSPACE, [[TASK, 1]], {})


def test_a_version_whose_meaning_is_not_known_is_refused() -> None:
    assert (
        read_enqueued_message(WORKSPACE, [[TASK, 1]], {"version": 2})
        == "version: Input should be less than or equal to 1"
    )


@pytest.mark.parametrize(
    ("workspace", "tasks", "more", "blamed"),
    [
        (None, None, {}, "workspace_id"),
        ("shop", [[TASK, 1]], {}, "workspace_id"),
        (WORKSPACE, [], {}, "tasks"),
        (WORKSPACE, [[TASK]], {}, "tasks.0"),
        (WORKSPACE, [[TASK, "1"]], {}, "tasks.0.1"),
        (WORKSPACE, [[7, 1]], {}, "tasks.0.0"),
        (WORKSPACE, [[TASK, 1]] * 1001, {}, "tasks"),
        (WORKSPACE, {"a": 1}, {}, "tasks"),
        (WORKSPACE, [[TASK, 1]], {"version": "1"}, "version"),
        (WORKSPACE, [[TASK, 1]], {"version": 0}, "version"),
        ("x", [[TASK, 1]], {"workspace_id": WORKSPACE}, "workspace_id"),
    ],
)
def test_what_makes_no_sense_is_refused(workspace: object, tasks: object, more: dict, blamed: str) -> None:
    refused = read_enqueued_message(workspace, tasks, more)

    assert isinstance(refused, str)
    assert refused.startswith((f"{blamed}:", f"{blamed}."))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (f'["{_ID}", "{_ID}"]', (_ID, _ID)),
        (f'["{_ID}", "{_ID}", {{"why": "later"}}]', (_ID, _ID)),
        ('["w", "p"]', None),
        ('["w"]', None),
        ('["w", 1]', None),
        ('"wp"', None),
        ("not json", None),
    ],
)
def test_a_nudge_is_two_names_and_perhaps_more(text: str, read: tuple[str, str] | None) -> None:
    assert read_wakeup(text) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('[["t", 1], ["u", 2, "why"]]', [("t", 1), ("u", 2)]),
        ('[["t"], ["u", 2], ["v", "3"], ["w", true], 7, [8, 9]]', [("u", 2)]),
        ("{}", []),
        ("garbage", []),
    ],
)
def test_what_is_malformed_in_a_cancel_does_not_hide_the_rest(text: str, read: list[tuple[str, int]]) -> None:
    assert read_cancels(text) == read


@pytest.mark.parametrize("text", [f'["{_ID}", "shop"]', f'["shop", "{_ID}"]', f'["{_ID}", ""]'])
def test_a_nudge_of_which_half_is_no_id_is_none(text: str) -> None:
    assert read_wakeup(f'["{_ID}", "{_ID}"]') == (_ID, _ID)
    assert read_wakeup(text) is None
