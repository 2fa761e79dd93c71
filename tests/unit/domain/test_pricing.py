"""Test prices: exact sums of each kind of token, which price takes precedence, and calls without a price."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordination.base.errors import Refused
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.pricing import (
    Price,
    PriceBook,
    PricedCall,
    PriceOverride,
    Quote,
    Rate,
    UnknownPrice,
    check_model_name,
    compute_cost,
    make_correction,
    make_price_book,
    parse_price,
    tokens_of,
)
from coordination.domain.tasks.attempts import Usage
from tests.support.refusals import refuses

AT = datetime(2027, 1, 1, tzinfo=UTC)
MINI = Price(Rate(Decimal("0.25")), Rate(Decimal(2)), cached_input=Rate(Decimal("0.025")))
TIERED = Price(
    Rate(Decimal(3), ((200_000, Decimal(6)),)),
    Rate(Decimal(15), ((200_000, Decimal("22.5")),)),
    cached_input=Rate(Decimal("0.3"), ((200_000, Decimal("0.6")),)),
)


def quote_of(price: Price) -> Quote:
    return Quote(price, "a list", "x/m")


def used(given_: int = 0, made: int = 0, cached: int = 0, **extra: object) -> Usage:
    return Usage("m", input_tokens=given_, output_tokens=made, cached_input_tokens=cached, extra=extra)


def cost(price: Price, usage: Usage) -> Decimal:
    quote = PriceBook(price_list=lambda _model, _at: quote_of(price)).price_call(usage, None, AT)
    assert isinstance(quote, PricedCall), quote
    return quote.usd


def why(price: Price, usage: Usage) -> str:
    quote = PriceBook(price_list=lambda _model, _at: quote_of(price)).price_call(usage, None, AT)
    assert isinstance(quote, UnknownPrice), quote
    return quote.why


class TestArithmetic:
    def test_cached_input_is_part_of_the_input_and_reasoning_of_the_output(self) -> None:
        assert cost(MINI, used(1_000_000)) == Decimal("0.25")
        assert cost(MINI, used(1_000_000, cached=1_000_000)) == Decimal("0.025")
        assert cost(MINI, used(1_000, 85, 600)) == Decimal("0.000285")  # 400 fresh, 600 cached, 85 generated
        assert cost(MINI, used(0, 1_000_000, reasoning_output_tokens=900_000)) == Decimal(2)

    def test_what_is_kept_in_a_cache_has_its_price_by_how_long(self) -> None:
        price = replace(MINI, cache_write=Rate(Decimal(10)), cache_write_1h=Rate(Decimal(20)))
        kept = used(1_000_000, cache_write_input_tokens=500_000, cache_write_1h_input_tokens=100_000)

        assert cost(price, kept) == Decimal("0.125") + 4 + 2
        assert cost(replace(price, cache_write_1h=None), kept) == Decimal("0.125") + 5
        assert cost(MINI, kept) == Decimal("0.25")

    def test_reasoning_may_have_a_price_of_its_own(self) -> None:
        price = replace(MINI, reasoning=Rate(Decimal(3)))

        assert cost(price, used(0, 1_000_000, reasoning_output_tokens=400_000)) == Decimal("1.2") + Decimal("1.2")

    def test_a_long_call_has_the_rate_of_long_ones_for_all_of_it(self) -> None:
        assert cost(TIERED, used(200_000, 1_000_000)) == Decimal("15.6")
        assert cost(TIERED, used(200_001, 1_000_000)) == Decimal("23.700006")
        assert cost(TIERED, used(300_000, 0, cached=300_000)) == Decimal("0.18")

    def test_what_was_added_up_over_calls_says_nothing_of_how_long_they_were(self) -> None:
        assert cost(TIERED, used(1_000_000, summed=1)) == 3

    def test_a_fee_for_each_call_is_added_where_it_was_one(self) -> None:
        price = replace(MINI, request=Decimal("0.012"))

        assert cost(price, used(1_000_000)) == Decimal("0.262")
        assert "each call" in why(price, used(1_000_000, summed=True))

    def test_the_note_says_which_rates_were_used(self) -> None:
        quote = compute_cost(tokens_of(used(300_000, 5, cached=10)), quote_of(TIERED))  # type: ignore[arg-type]

        assert isinstance(quote, PricedCall)
        assert quote.note == {
            "priced_by": "a list",
            "prices": {"of": "x/m", "input": "6", "cached_input": "0.6", "output": "22.5"},
        }


class TestUnknown:
    @pytest.mark.parametrize(
        ("usage", "reason"),
        [
            (used(), "tokens were not reported"),
            (replace(used(), total_tokens=500), "tokens were not reported"),
            (used(10, 5, cached=11), "its cached input exceeds its input"),
            (used(10, 5, cached=6, cache_write_input_tokens=5), "its cached input exceeds its input"),
            (used(10, 5, cache_write_1h_input_tokens=5), "its cached input exceeds its input"),
            (used(10, 5, reasoning_output_tokens=6), "reasoning"),
            (used(2**63 - 1, 2**63 - 1), "largest that can be stored"),
        ],
    )
    def test_it_is_never_zero(self, usage: Usage, reason: str) -> None:
        price = Price(Rate(Decimal(1_000_000)), Rate(Decimal(1)))

        assert reason in why(price, usage)

    def test_a_list_without_a_price_for_what_was_used_has_none(self) -> None:
        assert "output" in why(Price(input=Rate(Decimal(1))), used(1, 1))
        assert "input" in why(Price(output=Rate(Decimal(1))), used(1, 1))
        assert cost(Price(input=Rate(Decimal(1))), used(1_000_000)) == 1

    @pytest.mark.parametrize("value", ["5", None, True, -5, 1.5, float("1e300"), [5], {}, 2**70])
    def test_a_count_that_is_none_counts_for_nothing(self, value: object) -> None:
        assert cost(MINI, used(1_000_000, 0, cache_write_input_tokens=value)) == Decimal("0.25")


counts = st.integers(min_value=0, max_value=2**53)
amounts = st.decimals(min_value=0, max_value=10**6, places=12)
rates = st.builds(Rate, amounts)
prices = st.builds(Price, rates, rates, *[st.none() | rates] * 4)


class TestSums:
    @given(prices, counts, counts, counts, counts)
    def test_they_are_exact(self, price: Price, fresh: int, cached: int, written: int, made: int) -> None:
        usage = used(fresh + cached + written, made, cached, cache_write_input_tokens=written)
        if not usage.input_tokens + usage.output_tokens:
            return
        dear = [
            Fraction(price.rate(kind).usd) * count  # type: ignore[union-attr]
            for kind, count in (
                *(("input", fresh), ("cached_input", cached), ("cache_write", written)),
                ("output", made),
            )
        ]
        exact = sum(dear) / 1_000_000

        quote = PriceBook(price_list=lambda _m, _at: quote_of(price)).price_call(usage, None, AT)

        assert (Fraction(quote.usd) == exact) if isinstance(quote, PricedCall) else (exact > 10**12)

    @given(counts, counts, counts)
    def test_caching_makes_nothing_dearer_where_it_is_cheaper(self, fresh: int, cached: int, made: int) -> None:
        if not fresh + cached + made:
            return
        assert cost(MINI, used(fresh + cached, made, cached)) <= cost(MINI, used(fresh + cached, made))

    @given(prices, counts, counts, st.integers(min_value=1, max_value=10**6))
    def test_more_tokens_never_cost_less(self, price: Price, read: int, made: int, more: int) -> None:
        small = Price(*(None if rate is None else Rate(rate.usd / 10**9) for rate in (price.input, price.output)))

        assert cost(small, used(read + 1, made)) <= cost(small, used(read + 1 + more, made))
        assert cost(small, used(read + 1, made)) <= cost(small, used(read + 1, made + more))


class TestWhose:
    LIST = quote_of(MINI)
    ALL = PriceOverride("m", Price(Rate(Decimal(1)), Rate(Decimal(1))))
    ONE = PriceOverride("m", Price(Rate(Decimal(2)), Rate(Decimal(2))), "p")

    @pytest.mark.parametrize(
        ("overrides", "project", "by"),
        [
            ([], "p", "a list"),
            ([ALL], "p", "override of the workspace"),
            ([ALL, ONE], "p", "override of the project"),
            ([ALL, ONE], "q", "override of the workspace"),
            ([ALL, ONE], None, "override of the workspace"),
            ([ONE], "q", "a list"),
            ([ONE], None, "a list"),
        ],
    )
    def test_the_nearer_one_goes_first(self, overrides: list[PriceOverride], project: str | None, by: str) -> None:
        result = make_price_book(overrides, lambda _model, _at: self.LIST).quote(" M ", project, AT)

        assert isinstance(result, Quote)
        assert result.by == by

    def test_a_price_of_nothing_is_a_price(self) -> None:
        free = PriceOverride("llama", parse_price({"input": "0", "output": "0"}))

        result = make_price_book([free], lambda _model, _at: UnknownPrice("no")).price_call(
            replace(used(5, 5), model="llama"), None, AT
        )

        assert isinstance(result, PricedCall)
        assert result.usd == 0
        assert free.price.is_free()
        assert not MINI.is_free()
        assert not replace(free.price, request=Decimal(1)).is_free()


class TestWhatPeopleSay:
    @pytest.mark.parametrize(
        "said",
        [
            *("-1", "-0.000001", "nan", "NaN", "inf", "1e309", "1e999999999", "1000000.01", "", " ", "free", "$1"),
            *("0.0000000000001", "0." + "0" * 29 + "1", "1,25", "0x10", "9" * 400),
        ],
    )
    def test_what_is_no_price_is_refused_in_one_sentence(self, said: str) -> None:
        with refuses(Refused, field="cached_input"):
            parse_price({"input": "1", "cached_input": said})

    @pytest.mark.parametrize(
        ("said", "meant"),
        [("1.25", "1.25"), ("1e-6", "0.000001"), ("-0", "0"), ("1e6", "1000000"), ("2.50", "2.5"), ("00", "0")],
    )
    def test_an_amount_is_kept_as_it_is_meant(self, said: str, meant: str) -> None:
        price = parse_price({"input": said, "output": None})

        assert price.input is not None
        assert f"{price.input.usd:f}" == meant
        assert price.output is None

    @pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 201, "\0"])
    def test_a_name_that_is_none_is_refused(self, name: str) -> None:
        with refuses(Refused, field="model"):
            check_model_name(name)

    def test_a_name_is_compared_in_small_letters(self) -> None:
        assert check_model_name(" OpenAI:GPT-5 ") == "openai:gpt-5"


class TestCorrection:
    RECORD = CostRecord(
        *("call", "s", "p", "r", "t", 1, "ann", "m", 10, 5, 4, 15),
        cost_usd=None,
        stale=True,
        occurred_at=AT,
        extra={"foreign": 1},
    )

    def priced_call(self, usd: str) -> PricedCall:
        return PricedCall(Decimal(usd), {"priced_by": "a list"})

    def test_it_stands_where_the_record_stands_and_has_no_tokens(self) -> None:
        one = make_correction(self.RECORD, [], self.priced_call("0.5"), actor="user:ann")

        assert one == replace(
            self.RECORD,
            id="call~priced",
            input_tokens=0,
            output_tokens=0,
            cached_input_tokens=0,
            total_tokens=0,
            cost_usd=Decimal("0.5"),
            extra={"priced_by": "a list", "corrected_by": "user:ann"},
            corrects="call",
            settles=True,
        )

    def test_a_later_one_adds_only_what_is_missing(self) -> None:
        first = make_correction(self.RECORD, [], self.priced_call("0.5"))
        assert first is not None

        second = make_correction(self.RECORD, [first], self.priced_call("0.2"))

        assert second is not None
        assert (second.id, second.cost_usd, second.settles) == ("call~priced-2", Decimal("-0.3"), False)
        assert make_correction(self.RECORD, [first, second], self.priced_call("0.2")) is None

    def test_an_unknown_price_that_turns_out_to_be_nothing_is_settled_too(self) -> None:
        one = make_correction(self.RECORD, [], self.priced_call("0"))

        assert one is not None
        assert (one.cost_usd, one.settles) == (0, True)

    def test_what_was_told_to_be_free_is_no_unknown_price(self) -> None:
        record = replace(self.RECORD, cost_usd=Decimal("0.0"))

        one = make_correction(record, [], self.priced_call("0.5"))

        assert one is not None
        assert not one.settles
        assert make_correction(record, [], self.priced_call("0")) is None
