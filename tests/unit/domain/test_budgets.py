"""Test budgets: what fits, the remainder, when a period renews in a time zone, and an attempt's reservations."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from coordination.domain.money.budget_status import BudgetStatus
from coordination.domain.money.budgets import (
    NOTHING,
    Amount,
    Budget,
    BudgetPeriod,
    BudgetScope,
    BudgetUse,
    ExceededAction,
    Reservation,
    find_shortage,
    is_reached,
    is_warning_due,
    period_start,
    read_amount,
    read_reservation,
)

BERLIN, SAMOA = ZoneInfo("Europe/Berlin"), ZoneInfo("Pacific/Pago_Pago")
CAP = Budget("b", BudgetScope.RUN, "r", usd=Decimal("1.00"), tokens=1_000, unpriced_calls=0, max_starts=10)


def dollars(amount: str, tokens: int = 0, unpriced: int = 0) -> Amount:
    return Amount(Decimal(amount), tokens, unpriced)


def use(spent: Amount = NOTHING, reserved: Amount = NOTHING) -> BudgetUse:
    return BudgetUse("b", "", spent, reserved)


class TestWhatFits:
    @pytest.mark.parametrize(
        ("spent", "reserved", "wanted", "lacking"),
        [
            (NOTHING, NOTHING, dollars("1.00", 1_000), None),
            (NOTHING, NOTHING, dollars("1.01"), "usd"),
            (NOTHING, NOTHING, dollars("0", 1_001), "tokens"),
            (NOTHING, NOTHING, dollars("0", 1, 1), "unpriced"),
            (dollars("0.60"), NOTHING, dollars("0.40"), None),
            (dollars("0.60"), NOTHING, dollars("0.41"), "usd"),
            (NOTHING, dollars("0.60"), dollars("0.41"), "usd"),
            (dollars("9.00"), NOTHING, dollars("0", 10), None),
            (dollars("9.00", 9_000, 9), NOTHING, NOTHING, None),
            (Amount(starts=9), NOTHING, Amount(starts=1), None),
            (Amount(starts=10), NOTHING, Amount(starts=1), "starts"),
            (Amount(starts=10), NOTHING, dollars("1.00"), None),
        ],
    )
    def test_an_amount_fits_when_no_cap_that_it_needs_is_passed(
        self, spent: Amount, reserved: Amount, wanted: Amount, lacking: str | None
    ) -> None:
        lack = find_shortage(CAP, use(spent, reserved), wanted)

        assert (None if lack is None else lack.what) == lacking

    def test_a_shortage_passes_when_only_reservations_cause_it(self) -> None:
        passing = find_shortage(CAP, use(dollars("0.20"), dollars("0.60")), dollars("0.40"))
        lasting = find_shortage(CAP, use(dollars("0.70"), dollars("0.10")), dollars("0.40"))

        assert passing is not None
        assert lasting is not None
        assert (passing.passing, lasting.passing) == (True, False)

    def test_a_shortage_knows_whether_the_cap_is_passed_already(self) -> None:
        at_the_cap = find_shortage(CAP, use(dollars("1.00")), dollars("0.10"))
        above = find_shortage(CAP, use(dollars("1.01")), dollars("0.10"))

        assert at_the_cap is not None
        assert above is not None
        assert (at_the_cap.passed, above.passed) == (False, True)


class TestWarningsAndEnd:
    @pytest.mark.parametrize(
        ("spent", "expected"),
        [
            (NOTHING, False),
            (dollars("0.99"), False),
            (dollars("1.00"), True),
            (dollars("0", 1_000), True),
            (dollars("0", 0, 1), True),
            (Amount(starts=9), False),
            (Amount(starts=10), True),
        ],
    )
    def test_a_budget_is_reached_when_nothing_is_left_of_one_cap(self, spent: Amount, expected: bool) -> None:  # noqa: FBT001 - a parameter
        assert is_reached(CAP, spent) is expected

    @pytest.mark.parametrize(
        ("spent", "warns"),
        [
            (NOTHING, False),
            (dollars("0.79"), False),
            (dollars("0.80"), True),
            (dollars("0", 799), False),
            (dollars("0", 800), True),
            (Amount(starts=7), False),
            (Amount(starts=8), True),
        ],
    )
    def test_a_budget_warns_from_its_share_of_the_cap_on(self, spent: Amount, warns: bool) -> None:  # noqa: FBT001 - a parameter
        assert is_warning_due(CAP, spent) is warns


class TestPeriods:
    @pytest.mark.parametrize(
        ("period", "moment", "zone", "starts"),
        [
            (BudgetPeriod.TOTAL, datetime(2027, 1, 31, 23, 30, tzinfo=UTC), BERLIN, ""),
            (BudgetPeriod.DAY, datetime(2027, 1, 31, 22, 59, tzinfo=UTC), BERLIN, "2027-01-31"),
            (BudgetPeriod.DAY, datetime(2027, 1, 31, 23, 0, tzinfo=UTC), BERLIN, "2027-02-01"),
            (BudgetPeriod.DAY, datetime(2027, 2, 1, 10, 59, tzinfo=UTC), SAMOA, "2027-01-31"),
            (BudgetPeriod.DAY, datetime(2027, 7, 31, 22, 0, tzinfo=UTC), BERLIN, "2027-08-01"),
            (BudgetPeriod.MONTH, datetime(2027, 1, 31, 22, 59, tzinfo=UTC), BERLIN, "2027-01-01"),
            (BudgetPeriod.MONTH, datetime(2027, 1, 31, 23, 0, tzinfo=UTC), BERLIN, "2027-02-01"),
            (BudgetPeriod.MONTH, datetime(2027, 2, 1, 10, 59, tzinfo=UTC), SAMOA, "2027-01-01"),
        ],
    )
    def test_a_period_begins_at_midnight_of_its_zone(
        self, period: BudgetPeriod, moment: datetime, zone: ZoneInfo, starts: str
    ) -> None:
        assert period_start(period, moment, zone) == starts


class TestReservations:
    def test_calls_lower_what_is_reserved_to_zero_at_the_least(self) -> None:
        before = Reservation(dollars("0.50", 100), (("b", ""),))

        after = before.after([dollars("0.30", 10), dollars("0.40", 20)])

        assert after == Reservation(dollars("0", 70), (("b", ""),), largest=dollars("0.40", 20))

    def test_another_call_like_the_dearest_has_to_be_covered(self) -> None:
        covered = Reservation(dollars("0.50", 100), largest=dollars("0.40", 100))
        open_ = Reservation(dollars("0.10", 100), largest=dollars("0.40", 100))

        assert (covered.missing(), open_.missing()) == (NOTHING, dollars("0.30"))

    def test_a_start_is_spent_at_once_and_given_back_on_its_own(self) -> None:
        claimed = use().with_claim(Amount(Decimal("0.50"), 100, 0, 1))

        assert (claimed.spent, claimed.reserved) == (Amount(starts=1), dollars("0.50", 100))
        assert claimed.without_claim(dollars("0.50", 100)) == use(Amount(starts=1))
        assert claimed.without_claim(Amount(Decimal(9), 100, 0, 2)) == use()

    def test_a_reservation_is_read_back_as_it_was_written(self) -> None:
        reserved = Reservation(Amount(Decimal("0.5000000001"), 7, 1, 1), (("b", "2027-01-31"),), dollars("0.2", 3))

        assert read_reservation(reserved.to_json()) == reserved
        assert read_amount(NOTHING.to_json()) == NOTHING


class TestStandings:
    @pytest.mark.parametrize(
        ("spent", "percent"),
        [
            (dollars("0.996"), 99),
            (dollars("1"), 100),
            (dollars("0.10", 700), 70),
            (Amount(Decimal("0.10"), starts=6), 60),
            (NOTHING, 0),
        ],
    )
    def test_the_percentage_is_that_of_the_nearer_cap_and_a_hundred_only_at_its_end(
        self, spent: Amount, percent: int
    ) -> None:
        assert BudgetStatus(CAP, "r", use(spent)).percent == percent

    def test_what_is_reserved_is_not_left(self) -> None:
        standing = BudgetStatus(CAP, "r", use(dollars("0.30", 100), dollars("0.20", 300)))
        passed = BudgetStatus(CAP, "r", use(dollars("0.90", 900), dollars("0.20", 300)))

        assert (standing.left_usd, standing.left_tokens) == (Decimal("0.50"), 600)
        assert (passed.left_usd, passed.left_tokens) == (0, 0)

    def test_a_budget_that_only_warns_holds_nothing_back(self) -> None:
        assert CAP.holds
        assert not Budget("b", BudgetScope.RUN, "r", action=ExceededAction.WARN).holds
