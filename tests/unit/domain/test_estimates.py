"""Test estimates of a job's cost: by similar jobs, by prices, by its plan; cautious in each case."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordination.base.errors import Refused
from coordination.domain.jobs import AgentCall, ChatCall, PythonCall, Shell
from coordination.domain.money.costs import CostRecord
from coordination.domain.money.estimates import (
    MAX_SAMPLES,
    MIN_SAMPLES,
    SHORT_JOB,
    Estimate,
    JobSample,
    estimate,
    history_key,
    keep_latest,
    make_sample,
    model_of,
    parse_estimate,
    read_samples,
)
from coordination.domain.money.pricing import Price, Quote, Rate, UnknownPrice
from coordination.domain.tasks.attempts import Outcome
from tests.support.refusals import refuses

CLAUDE = AgentCall("claude", "Mend it", model="claude-haiku-4-5").to_json()
CODEX = AgentCall("codex", "Mend it", model="gpt-5-codex").to_json()
CHAT = ChatCall("openai:gpt-5-mini", "x" * 300, settings={"max_tokens": 1_000}).to_json()
ENDLESS = ChatCall("openai:gpt-5-mini", "Hello").to_json()
SHELL = Shell("make test").to_json()
MINI = Quote(Price(Rate(Decimal("0.25")), Rate(Decimal(2))), "a list", "gpt-5-mini")


def listed(_model: str) -> Quote:
    return MINI


def unlisted(_model: str) -> UnknownPrice:
    return UnknownPrice("nobody knows it")


def sample(usd: str | None = "0.1", tokens: int = 1_000, unpriced: int = 0, *, completed: bool = True) -> JobSample:
    return JobSample(None if usd is None else Decimal(usd), tokens, unpriced, timedelta(minutes=1), completed)


def of(work, *samples, stated=None, quote=unlisted) -> Estimate:
    return estimate(work, samples, stated=stated, quote=quote)


SAMPLES = st.builds(
    JobSample,
    usd=st.none() | st.decimals(0, 10**6, places=9, allow_nan=False),
    tokens=st.integers(0, 10**9),
    unpriced=st.integers(0, 99),
    took=st.timedeltas(timedelta(0), timedelta(days=99)),
    completed=st.booleans(),
)
WORKS = st.sampled_from([CLAUDE, CODEX, CHAT, ENDLESS, SHELL])
STATED = st.none() | st.fixed_dictionaries({}, optional={"usd": st.just("0.25"), "tokens": st.just(20_000)})
QUOTES = st.sampled_from([listed, unlisted])


class TestKeys:
    @pytest.mark.parametrize(
        ("work", "key"),
        [
            (Shell("make -j test"), "shell:make"),
            (PythonCall("shop.jobs:count", args={"n": 1}), "python:shop.jobs:count"),
            (AgentCall("claude", "x"), "agent:claude"),
            (AgentCall("claude", "x", model="claude-haiku-4-5"), "agent:claude:claude-haiku-4-5"),
            (AgentCall("custom", "x", command=["mytool", "run"], model="small"), "agent:custom:mytool:small"),
            (AgentCall("codex", "x", command=["/opt/codex"]), "agent:codex"),
            (ChatCall("openai:gpt-5-mini", "x"), "chat:openai:gpt-5-mini"),
        ],
    )
    def test_jobs_that_cost_alike_have_one_key(self, work, key):
        assert history_key(work.to_json()) == key

    def test_no_name_is_too_long_for_an_index(self):
        long = AgentCall("custom", "x", command=["y" * 9_000], model="z" * 9_000)

        assert len(history_key(long.to_json())) <= 300

    @pytest.mark.parametrize(
        ("work", "model"),
        [
            (CLAUDE, "claude-haiku-4-5"),
            (CHAT, "gpt-5-mini"),
            (SHELL, None),
            (AgentCall("claude", "x").to_json(), None),
            (ChatCall("{{ needs.choice.output }}", "x").to_json(), None),
        ],
    )
    def test_the_model_is_known_when_the_job_names_it(self, work, model):
        assert model_of(work) == model


class TestByHistory:
    def test_the_dearest_of_jobs_like_it_is_expected(self):
        result = of(CLAUDE, sample("0.1", 10), sample("0.7", 5), sample("0.3", 99))

        assert result == Estimate(Decimal("0.7"), 99, 0, "history")

    def test_twice_that_as_long_as_there_are_few(self):
        assert of(CLAUDE, sample("0.1", 10), sample("0.7", 5)) == Estimate(Decimal("1.4"), 20, 0, "history")

    def test_it_goes_before_prices_and_plans(self):
        result = of(CHAT, *[sample("0.1")] * 3, stated={"usd": "9", "tokens": 9}, quote=listed)

        assert result == Estimate(Decimal("0.1"), 1_000, 0, "history")

    def test_one_that_failed_before_it_asked_anything_says_nothing(self):
        never_began = sample("0", 0, completed=False)

        assert of(CLAUDE, never_began, never_began, never_began).source == "unknown"
        assert of(CLAUDE, never_began, sample("0.5")).usd == Decimal(1)

    def test_calls_without_a_price_are_counted_as_such(self):
        result = of(CODEX, sample(None, 500, 2), sample(None, 900, 1), sample("0.1", 5))

        assert result == Estimate(Decimal("0.1"), 900, 2, "history")

    def test_a_price_that_was_set_since_then_is_used(self):
        result = of(CODEX, sample(None, 500_000, 1), sample(None, 1_000_000, 1), sample("0.1"), quote=listed)

        assert result == Estimate(Decimal(2), 1_000_000, 0, "history"), "as if all of it had been the dearest kind"

    def test_calls_that_told_no_tokens_have_no_price_whatever_is_set(self):
        assert of(CODEX, *[sample(None, 0, 1)] * 3, quote=listed) == Estimate(Decimal(0), 0, 1, "history")

    @given(WORKS, st.lists(SAMPLES, max_size=MAX_SAMPLES), STATED, QUOTES)
    def test_no_kept_sample_was_dearer(self, work, samples, stated, quote):
        stored = of(work, *samples, stated=stated, quote=quote)

        assert stored.usd >= 0
        assert stored.tokens >= 0
        assert stored.unpriced >= 0
        if stored.source == "history":
            assert stored.usd >= max((one.usd for one in samples if one.usd is not None), default=0)
            assert stored.tokens >= max(one.tokens for one in samples)
        else:
            assert not any(one.is_informative for one in samples)

    @given(WORKS, st.lists(SAMPLES, min_size=MIN_SAMPLES, max_size=9), SAMPLES, QUOTES)
    def test_more_samples_make_it_no_cheaper(self, work, samples, one_more, quote):
        telling = [one for one in samples if one.is_informative]
        before, after = of(work, *samples, quote=quote), of(work, *samples, one_more, quote=quote)

        if len(telling) >= MIN_SAMPLES:
            assert after.usd >= before.usd
            assert after.tokens >= before.tokens


class TestByPrice:
    def test_a_chat_with_a_limit_costs_at_most_that(self):
        # 300 characters are at most 100 tokens, and the form takes some; 1,000 tokens are the answer.
        assert of(CHAT, quote=listed) == Estimate(Decimal("0.00205"), 1_200, 0, "price")

    def test_one_with_tools_reads_again_what_was_said(self):
        tools = {**CHAT, "tools": [{"url": "https://example.org"}], "settings": {"max_tokens": 1_000, "max_steps": 3}}

        result = of(tools, quote=listed)

        assert result.tokens == 3 * 200 + 1_000 * (1 + 2) + 3 * 1_000
        assert result.usd == Decimal("0.0069")

    def test_what_each_call_costs_is_counted_for_each(self):
        each = Quote(Price(Rate(Decimal(0)), Rate(Decimal(0)), request=Decimal("0.01")), "a list", "m")
        tools = {**CHAT, "tools": [{"url": "https://example.org"}], "settings": {"max_tokens": 1, "max_steps": 3}}

        assert of(tools, quote=lambda _: each).usd == Decimal("0.03")

    def test_without_a_price_its_tokens_are_known(self):
        assert of(CHAT) == Estimate(Decimal(0), 1_200, 1, "price")

    def test_without_a_limit_it_may_cost_anything(self):
        assert of(ENDLESS, quote=listed) == Estimate(Decimal(0), 0, 0, "unknown")
        assert of(ENDLESS) == Estimate(Decimal(0), 0, 1, "unknown")

    def test_no_price_is_asked_for_where_it_does_not_matter(self):
        def never(_model: str) -> Quote:
            raise AssertionError

        assert of(SHELL, quote=never) == Estimate(Decimal(0), 0, 0, "none")
        assert of(CHAT, sample(), quote=never).source == "history"


class TestByPlan:
    def test_what_the_plan_says_is_expected_where_nothing_else_is_known(self):
        stated = parse_estimate({"usd": 0.25, "tokens": 20_000})

        assert of(CLAUDE, stated=stated) == Estimate(Decimal("0.25"), 20_000, 0, "plan")
        assert of(SHELL, stated=stated) == Estimate(Decimal("0.25"), 20_000, 0, "plan")

    def test_a_model_that_has_no_price_is_a_call_without_one(self):
        assert of(CODEX, stated={"usd": "0.25"}) == Estimate(Decimal("0.25"), 0, 1, "plan")

    def test_tokens_alone_cost_what_the_dearest_of_them_costs(self):
        stated = {"tokens": 20_000}

        assert of(ENDLESS, stated=stated, quote=listed) == Estimate(Decimal("0.04"), 20_000, 0, "plan")
        assert of(ENDLESS, stated=stated) == Estimate(Decimal(0), 20_000, 1, "unknown")

    def test_a_duration_says_nothing_of_money(self):
        assert of(CLAUDE, stated={"duration": 60.0}).source == "unknown"
        assert of(SHELL, stated={"duration": 60.0}).source == "none"

    def test_it_is_stored_exactly(self):
        text = {"usd": Decimal("0.10"), "tokens": 5, "duration": "1h30m"}

        assert parse_estimate(text) == {"usd": "0.1", "tokens": 5, "duration": 5400.0}
        assert parse_estimate(parse_estimate(text)) == parse_estimate(text)
        assert parse_estimate({"duration": timedelta(minutes=1), "usd": None}) == {"duration": 60.0}

    @pytest.mark.parametrize(
        ("value", "field"),
        [
            (5, "estimate"),
            ({"dollars": 5}, "estimate.dollars"),
            ({"usd": -1}, "estimate.usd"),
            ({"usd": "much"}, "estimate.usd"),
            ({"usd": True}, "estimate.usd"),
            ({"usd": [1]}, "estimate.usd"),
            ({"usd": float("nan")}, "estimate.usd"),
            ({"tokens": -1}, "estimate.tokens"),
            ({"tokens": 1.5}, "estimate.tokens"),
            ({"tokens": True}, "estimate.tokens"),
            ({"tokens": 10**13}, "estimate.tokens"),
            ({"duration": "soon"}, "estimate.duration"),
            ({"duration": []}, "estimate.duration"),
            ({"duration": timedelta(-1)}, "estimate.duration"),
        ],
    )
    def test_what_is_no_estimate_is_refused_with_its_name(self, value, field):
        with refuses(Refused, field=field):
            parse_estimate(value)


def cost(usd: str | None, tokens: int = 100) -> CostRecord:
    amount = None if usd is None else Decimal(usd)
    return CostRecord(
        *("id", None, None, None, None, 1, None, "m", tokens, 0, 0, tokens), amount, stale=False,
        occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip


MINUTE = timedelta(minutes=1)


class TestSamples:
    def test_an_attempt_leaves_what_it_cost_and_how_long_it_took(self):
        spent = [cost("0.1"), cost("0.2", 5), cost(None, 7)]

        result = make_sample(CLAUDE, Outcome.COMPLETED, MINUTE, spent)

        assert result == JobSample(Decimal("0.3"), 112, 1, MINUTE, completed=True)
        assert make_sample(CLAUDE, Outcome.FAILED, MINUTE, [cost(None)]) == JobSample(
            None, 100, 1, MINUTE, completed=False
        )
        assert make_sample(SHELL, Outcome.TIMED_OUT, MINUTE, []) == JobSample(Decimal(0), 0, 0, MINUTE, completed=False)

    def test_a_short_job_that_cost_nothing_leaves_nothing(self):
        assert make_sample(SHELL, Outcome.COMPLETED, SHORT_JOB, []) is None
        assert make_sample(SHELL, Outcome.COMPLETED, SHORT_JOB, [cost("0.1")]) is not None
        assert make_sample(CLAUDE, Outcome.COMPLETED, SHORT_JOB, []) is not None

    @pytest.mark.parametrize("outcome", [Outcome.CANCELED, Outcome.LOST, Outcome.HANDED_BACK, Outcome.DEFERRED])
    def test_one_that_did_not_come_to_its_own_end_leaves_nothing(self, outcome):
        assert make_sample(CLAUDE, outcome, MINUTE, [cost("0.1")]) is None

    @given(st.lists(SAMPLES, max_size=40))
    def test_they_are_stored_and_read_back(self, samples):
        stored = json.loads(json.dumps([one.to_json() for one in samples]))

        assert read_samples(stored) == tuple(samples)

    @given(st.lists(SAMPLES, max_size=MAX_SAMPLES), st.lists(SAMPLES, max_size=50))
    def test_the_latest_are_kept(self, known, more):
        kept = keep_latest(known, more)

        assert len(kept) == min(MAX_SAMPLES, len(known) + len(more))
        assert kept == [*known, *more][len(known) + len(more) - len(kept) :]

    @pytest.mark.parametrize(
        "garbage",
        [None, "x", {}, [5], [["much", 1, 0, 1.0, True]], [["-1", 1, 0, 1.0, True]], [["1", -1, 0, 1.0, True]],
         [["1", 1, 0, -1.0, True]], [["1", 1, 0, float("nan"), True]], [["1", 1, 0, 1.0, 1]], [["1", 1, 0]]],
    )  # fmt: skip
    def test_what_is_no_sample_is_left_out(self, garbage):
        sound = ["0.5", 1, 0, 1.0, True]

        assert read_samples(garbage) == ()
        if isinstance(garbage, list):
            assert len(read_samples([*garbage, sound])) == 1
