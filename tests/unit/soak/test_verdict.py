"""Test the soak's evaluation: slopes without the effect of outliers, warm-ups left out, bounds that count together."""

from dataclasses import replace

import pytest

from tests.soak.sampling import Life, Sample
from tests.soak.verdict import Latency, lasting_zombies, quarters, slope, slower, trend


def life(*, minutes: float = 60, mb_an_hour: float = 0.0, descriptors_an_hour: float = 0.0, warm: float = 0.0) -> Life:
    """Return a process that starts at 80 MB with 40 descriptors, grows evenly, and by *warm* MB in five minutes."""
    result = Life("worker", 7)
    for second in range(0, int(minutes * 60), 5):
        at = float(second)
        uss = 80 + mb_an_hour * at / 3600 + warm * min(at / 300, 1)
        descriptors = int(40 + descriptors_an_hour * at / 3600)
        result.samples.append(Sample(at, uss + 20, uss + 10, uss, descriptors, 20, 8, 60.0, 0))
    return result


def test_a_slope_is_not_moved_by_outliers() -> None:
    points = [(float(x), 2.0 * x) for x in range(20)]
    points[3] = (3.0, 500.0)
    points[17] = (17.0, -500.0)

    assert slope(points) == pytest.approx(2.0)


def test_a_process_that_only_warms_up_is_flat() -> None:
    growth = trend(life(warm=50))

    assert growth is not None
    assert growth.mb_an_hour == pytest.approx(0, abs=0.01)
    assert growth.too_much == []


def test_a_leak_of_memory_is_too_much() -> None:
    growth = trend(life(mb_an_hour=30))

    assert growth is not None
    assert growth.too_much == ["worker (7) grows by 30.0 MB/h"]


def test_a_leak_of_descriptors_is_too_much() -> None:
    growth = trend(life(descriptors_an_hour=60))

    assert growth is not None
    assert [problem.split(" opens ")[0] for problem in growth.too_much] == ["worker (7)"]


def test_descriptors_that_come_and_go_with_jobs_are_no_leak() -> None:
    busy = life()
    busy.samples = [
        replace(sample, descriptors=sample.descriptors + (place % 7) * place // 50)
        for place, sample in enumerate(busy.samples)
    ]
    growth = trend(busy)

    assert growth is not None
    assert growth.descriptors_an_hour == pytest.approx(0, abs=0.01)


def test_descriptors_that_rise_at_the_end_of_a_short_life_and_were_as_low_before_are_no_leak() -> None:
    def problems(*, floor_later: int) -> list[str]:
        short = life(minutes=5)
        short.samples = [
            replace(sample, descriptors=40 if place < 35 else 40 + floor_later + 2 * (place - 35) * (place != 41))
            for place, sample in enumerate(short.samples)
        ]
        growth = trend(short)
        assert growth is not None
        assert growth.descriptors_an_hour > 10
        assert growth.descriptors_grown > 8
        return growth.too_much

    assert problems(floor_later=0) == []
    assert len(problems(floor_later=20)) == 1


def test_a_steep_minute_is_not_a_leak_yet() -> None:
    growth = trend(life(minutes=5, mb_an_hour=30))

    assert growth is not None
    assert growth.mb_an_hour == pytest.approx(30, rel=0.01)
    assert growth.too_much == []


def test_the_slopes_of_a_short_life_are_shown_and_not_judged() -> None:
    growth = trend(life(minutes=3, descriptors_an_hour=900, mb_an_hour=900))

    assert growth is not None
    assert growth.mb_grown > 20
    assert growth.too_much == []


def test_a_life_too_short_to_judge_is_left_out() -> None:
    assert trend(life(minutes=0.5)) is None
    assert trend(Life("worker", 7)) is None


def test_only_a_zombie_that_stays_counts() -> None:
    def seen(*zombies: int) -> list[Sample]:
        return [Sample(5.0 * place, 1, 1, 1, 1, 1, 1, 1, number) for place, number in enumerate(zombies)]

    assert lasting_zombies(seen(0, 3, 0, 2, 2, 0)) == 0
    assert lasting_zombies(seen(0, 1, 3, 2, 0)) == 1


def test_the_probe_is_judged_by_its_first_and_last_quarter() -> None:
    result = quarters([(float(at), 0.1 if at < 75 else 0.9) for at in range(101)])

    assert result is not None
    assert (result[0].p50, result[1].p50) == (0.1, 0.9)
    assert len(slower(*result)) == 1
    assert slower(Latency(10, 0.01, 1), Latency(10, 0.2, 9)) == []
    assert quarters([(0.0, 0.1)]) is None
