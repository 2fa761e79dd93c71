"""Test cost records of costs.jsonl in both shapes: read exactly, written so that nothing is lost."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordination.base.errors import FormatError
from coordination.base.ids import new_id
from coordination.domain.money.costs import CostRecord, correction_id
from coordination.formats.costs_jsonl import write_costs
from tests.support.cost_files import read_costs
from tests.support.refusals import refuses

NESTED = (
    b'{"id":"de7ab834-6660-495c-93df-46b22e1aa44e","usage":{"model":"claude-sonnet-4-6","input_tokens":324,'
    b'"output_tokens":16,"total_tokens":340,"cost_usd":0.0,"timestamp":"2026-03-26T21:04:56.896438721Z"},'
    b'"session_id":"42fd777a"}\n'
)
NEWER = (
    b'{"id":"07600a3c","usage":{"model":"claude-haiku-4-5","input_tokens":9417,"output_tokens":3,'
    b'"cached_input_tokens":9417,"total_tokens":9420,"cost_usd":1.10,"timestamp":"2026-08-07T07:44:48Z",'
    b'"pricing_available":false,"later":1.50},"session_id":"s","agent_alias":"khata","goal_task_id":"g-1","new":{"x":1e3}}\n'
)
FLAT = (
    b'{"id":"2fe9e123","session_id":"b9b607f9","model":"anthropic/claude-sonnet-4","input_tokens":2537,'
    b'"output_tokens":1475,"total_tokens":4012,"cost_usd":0.029736,"timestamp":"2026-01-21T10:37:08.529651Z"}\n'
)


def own(**changes) -> CostRecord:
    record = CostRecord(
        id="call-1",
        session_id="s",
        project_id=new_id(),
        run_id=new_id(),
        task_id=new_id(),
        attempt=2,
        agent="dave/shop",
        model="m",
        input_tokens=10,
        output_tokens=5,
        cached_input_tokens=4,
        total_tokens=15,
        cost_usd=Decimal("0.00000012"),
        stale=True,
        occurred_at=datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC),
    )
    return replace(record, **changes)


class TestRead:
    def test_usage_in_its_own_object(self):
        [record] = read_costs([NESTED])

        assert (record.id, record.session_id, record.model) == (
            "de7ab834-6660-495c-93df-46b22e1aa44e",
            "42fd777a",
            "claude-sonnet-4-6",
        )
        assert (record.input_tokens, record.output_tokens, record.total_tokens) == (324, 16, 340)
        assert record.cost_usd == Decimal(0)  # of a priced model: kept, not counted as unknown
        assert record.cost_usd is not None
        assert record.occurred_at == datetime(2026, 3, 26, 21, 4, 56, 896438, tzinfo=UTC)
        assert (record.agent, record.project_id, record.task_id, record.stale) == (None, None, None, False)

    def test_everything_on_one_level(self):
        [record] = read_costs([FLAT])

        assert (record.model, record.total_tokens) == ("anthropic/claude-sonnet-4", 4012)
        assert record.cost_usd == Decimal("0.029736")

    def test_the_newer_fields(self):
        [record] = read_costs([NEWER])

        assert record.agent == "khata"
        assert record.cached_input_tokens == 9417
        assert record.cost_usd is None  # the price was not available
        assert record.extra["goal_task_id"] == "g-1"

    def test_amounts_are_exact(self):
        line = FLAT.replace(b"0.029736", b"0.1234567890123456789")

        assert next(read_costs([line])).cost_usd == Decimal("0.1234567890123456789")

    def test_a_missing_total_is_added_up_and_a_missing_cost_is_unknown(self):
        [record] = read_costs(
            [b'{"id":"a","model":"m","input_tokens":2,"output_tokens":3,"timestamp":"2026-01-01T00:00:00"}']
        )

        assert record.total_tokens == 5
        assert record.cost_usd is None
        assert record.occurred_at == datetime(2026, 1, 1, tzinfo=UTC)

    def test_a_correction_of_a_record_with_the_longest_id_is_read_too(self):
        named = own(id="x" * 500)
        correction = replace(named, id=correction_id(named.id, 12), corrects=named.id, cost_usd=Decimal("-0.1"))

        read = list(read_costs(write_costs([named, correction])))

        assert [one.id for one in read] == [named.id, correction.id]

    def test_it_is_a_stream(self):
        endless = (FLAT.replace(b"2fe9e123", b"%d" % number) for number in itertools.count())

        first = list(itertools.islice(read_costs(endless), 3))

        assert [record.id for record in first] == ["0", "1", "2"]

    @pytest.mark.parametrize(
        ("bad", "field"),
        [
            (b"{", None),
            (b"[]", None),
            (b"\xff", None),
            (FLAT.replace(b'"2fe9e123"', b"7"), "id"),
            (FLAT.replace(b'"2fe9e123"', b'""'), "id"),
            (FLAT.replace(b'"model"', b'"modle"'), "model"),
            (FLAT.replace(b"2fe9e123", b"x" * 501), "id"),
            (FLAT.replace(b"anthropic/claude-sonnet-4", b"x" * 501), "model"),
            (FLAT.replace(b"b9b607f9", b"x" * 501), "session_id"),
            (NEWER.replace(b"khata", b"x" * 501), "agent_alias"),
            (FLAT.replace(b"2537", b"-1"), "input_tokens"),
            (FLAT.replace(b"2537", b"1.5"), "input_tokens"),
            (FLAT.replace(b"2537", b"9223372036854775808"), "input_tokens"),
            (FLAT.replace(b"0.029736", b'"1"'), "cost_usd"),
            (FLAT.replace(b"0.029736", b"-0.1"), "cost_usd"),
            (FLAT.replace(b"0.029736", b"NaN"), None),
            (FLAT.replace(b"0.029736", b"1e99"), "cost_usd"),
            (FLAT.replace(b"2026-01-21T", b"soon "), "timestamp"),
            (NEWER.replace(b"false", b'"no"'), "pricing_available"),
            (FLAT.replace(b'"id"', b'"coordination":{"task_id":"x"},"id"'), "coordination.task_id"),
            (FLAT.replace(b"sonnet", b"\\u0000"), None),
            (FLAT.replace(b'"id"', b'"coordination":{"corrects":5},"id"'), "corrects"),
            (FLAT.replace(b'"id"', b'"coordination":{"extra":[]},"id"'), "coordination.extra"),
            (FLAT.replace(b'"id"', b'"coordination":{"extra":{"a":1e400}},"id"'), "coordination.extra"),
        ],
    )
    def test_a_bad_line_is_named(self, bad, field):
        records = read_costs([NESTED, b"\n", bad], source="costs.jsonl")
        next(records)

        with refuses(FormatError, field=field, line=3):
            next(records)


class TestWrite:
    @pytest.mark.parametrize("line", [NESTED, NEWER, FLAT])
    def test_as_read_is_letter_for_letter_what_was_read(self, line):
        assert list(write_costs(read_costs([line]), "as-read")) == [line]

    @pytest.mark.parametrize("line", [NESTED, NEWER, FLAT])
    @pytest.mark.parametrize("shape", ["nested", "flat"])
    def test_the_other_shape_says_the_same_and_goes_back_again(self, line, shape):
        [there] = write_costs(read_costs([line]), shape)
        [record], [same] = read_costs([there]), read_costs([line])
        [back] = write_costs([record], "flat" if line is FLAT else "nested")

        assert replace(record, extra={}) == replace(same, extra={})
        assert record.extra["shape"] == shape
        assert json.loads(back) == json.loads(line)

    def test_a_field_unknown_here_stays_in_the_object_it_stood_in(self):
        [flat] = write_costs(read_costs([NEWER]), "flat")

        line = json.loads(flat)

        assert line["usage"] == {"later": 1.5}
        assert line["new"] == {"x": 1000.0}
        assert b'"cost_usd":1.10' in flat
        assert b"1.50" in flat

    @pytest.mark.parametrize("shape", ["nested", "flat", "as-read"])
    @pytest.mark.parametrize(
        "record",
        [
            own(),
            own(cost_usd=None),
            own(account="claude@work"),
            own(cost_usd=Decimal("-0.25"), corrects="call-0"),
            own(id="call-0~priced", corrects="call-0", settles=True),
            own(session_id=None, agent=None, project_id=None, run_id=None, task_id=None, attempt=None, stale=False),
        ],
    )
    def test_a_record_of_our_own_reads_back_equal(self, shape, record):
        [back] = read_costs(write_costs([record], shape))

        assert replace(back, extra={}) == record

    def test_what_stands_beside_a_record_of_our_own_survives(self):
        extra = {"priced_by": "genai-prices 0.2.3", "prices": {"input": "0.25"}, "share": 0.1, "n": [1, None, True]}

        [back] = read_costs(write_costs([own(extra=extra)]))

        assert {name: value for name, value in back.extra.items() if name not in ("line", "shape")} == extra

    def test_an_unknown_price_is_written_as_the_foreign_program_writes_it(self):
        [line] = write_costs([own(cost_usd=None)])

        usage = json.loads(line)["usage"]

        assert usage["cost_usd"] == 0
        assert usage["pricing_available"] is False

    @given(
        st.decimals(min_value=0, max_value=10**6, places=12),
        st.text(min_size=1).filter(lambda text: "\0" not in text),
        st.sampled_from(["nested", "flat"]),
    )
    def test_money_and_names_of_any_kind_survive(self, cost, model, shape):
        record = own(cost_usd=cost, model=model)

        [back] = read_costs(write_costs([record], shape))

        assert (back.cost_usd, back.model) == (cost, model)


def test_a_time_with_an_offset_is_the_same_moment_in_utc_and_one_without_is_in_utc():
    lines = [
        FLAT.replace(b"2026-01-21T10:37:08.529651Z", time) for time in (b"2026-03-26T23:30:00-05:00", b"2026-03-27")
    ]

    early, naive = read_costs(lines)

    assert early.occurred_at == datetime(2026, 3, 27, 4, 30, tzinfo=UTC)
    assert naive.occurred_at == datetime(2026, 3, 27, tzinfo=UTC)


@pytest.mark.parametrize("line", [NESTED, FLAT, NESTED.replace(b'"usage":{', b'"usage":{"currency":"EUR",')])
def test_an_amount_in_another_currency_is_refused_wherever_it_says_so(line):
    euros = line if b"EUR" in line else line.replace(b"{", b'{"currency":"EUR",', 1)

    with pytest.raises(FormatError) as refused:
        list(read_costs([euros]))

    assert "only US dollars" in refused.value.sentence()
