"""How many tasks of a kind may share a message: grows while they are short, falls back at the first long one."""

from datetime import timedelta

from workers.kinds import LARGEST, Kinds

QUICK = timedelta(milliseconds=1)


def test_a_bundle_doubles_when_all_of_one_were_short_and_has_a_largest_size() -> None:
    kinds = Kinds()
    sizes = [kinds.bundle("p", "k")]

    for _ in range(3 * LARGEST):
        kinds.learn("p", "k", QUICK)
        if (size := kinds.bundle("p", "k")) != sizes[-1]:
            sizes.append(size)

    assert sizes == [1, 2, 4, 8, 16, 32, 64]


def test_the_first_long_job_ends_all_bundles_of_its_kind_and_of_no_other() -> None:
    kinds = Kinds()
    for _ in range(100):
        kinds.learn("p", "k", QUICK)
        kinds.learn("q", "k", QUICK)

    kinds.learn("p", "k", timedelta(seconds=1))

    assert (kinds.bundle("p", "k"), kinds.bundle("q", "k")) == (1, 64)


def test_a_job_that_is_not_quite_short_halves_the_bundle() -> None:
    kinds = Kinds()
    for _ in range(100):
        kinds.learn("p", "k", QUICK)

    kinds.learn("p", "k", timedelta(milliseconds=50))

    assert kinds.bundle("p", "k") == 32


def test_kinds_that_were_not_seen_for_long_are_forgotten() -> None:
    kinds = Kinds()
    for _ in range(10):
        kinds.learn("p", "old", QUICK)

    for number in range(1000):
        kinds.learn("p", f"new {number}", QUICK)

    assert kinds.bundle("p", "old") == 1
