"""Test how many tasks of a kind may share a message: more while they are short, one again after the first long one."""

from datetime import timedelta

from workers.leases.duration_stats import LARGEST, MOMENT, DurationStats

QUICK = timedelta(microseconds=100)
FUNCTION = "python:jobs:run"


def test_a_bundle_doubles_when_all_of_one_were_short_and_has_a_largest_size() -> None:
    kinds = DurationStats()
    sizes = [kinds.bundle("p", "k")]

    for _ in range(3 * LARGEST):
        kinds.learn("p", "k", QUICK)
        if (size := kinds.bundle("p", "k")) != sizes[-1]:
            sizes.append(size)

    assert sizes == [1, 2, 4, 8, 16, 32, 64]


def test_the_first_long_job_ends_all_bundles_of_its_kind_and_of_no_other() -> None:
    kinds = DurationStats()
    for _ in range(100):
        kinds.learn("p", "k", QUICK)
        kinds.learn("q", "k", QUICK)

    kinds.learn("p", "k", timedelta(seconds=1))

    assert (kinds.bundle("p", "k"), kinds.bundle("q", "k")) == (1, 64)


def test_a_job_that_is_not_quite_short_halves_the_bundle() -> None:
    kinds = DurationStats()
    for _ in range(100):
        kinds.learn("p", "k", QUICK)

    kinds.learn("p", "k", timedelta(milliseconds=50))

    assert kinds.bundle("p", "k") == 32


def test_a_bundle_holds_no_more_than_a_moment_of_work() -> None:
    kinds = DurationStats()

    for _ in range(200):
        kinds.learn("p", "k", timedelta(milliseconds=2))

    assert kinds.bundle("p", "k") == MOMENT / timedelta(milliseconds=2)


def test_one_job_that_was_held_up_says_little_about_its_kind() -> None:
    kinds = DurationStats()
    for _ in range(200):
        kinds.learn("p", "k", QUICK)

    kinds.learn("p", "k", MOMENT)

    assert kinds.bundle("p", "k") == LARGEST


def test_kinds_that_were_not_seen_for_long_are_forgotten() -> None:
    kinds = DurationStats()
    for _ in range(10):
        kinds.learn("p", "old", QUICK)

    for number in range(10_000):
        kinds.learn("p", f"new {number}", timedelta(seconds=1))

    assert kinds.bundle("p", "old") == 1


def test_a_stranger_is_alone_until_several_strangers_of_its_project_were_short() -> None:
    kinds = DurationStats()
    for number in range(6):
        kinds.learn("p", f"k{number}", QUICK)
    assert kinds.bundle("p", "new") == 1

    for number in range(6, 20):
        kinds.learn("p", f"k{number}", QUICK)

    assert 1 < kinds.bundle("p", "new") <= 7
    assert kinds.bundle("q", "new") == 1


def test_one_long_stranger_ends_the_bundles_of_strangers_and_of_nobody_known() -> None:
    kinds = DurationStats()
    for number in range(20):
        kinds.learn("p", f"k{number}", QUICK)
        kinds.learn("p", "known", QUICK)

    kinds.learn("p", "long", timedelta(seconds=1))

    assert (kinds.bundle("p", "new"), kinds.bundle("p", "known") > 1) == (1, True)


def test_what_a_known_kind_does_later_says_nothing_about_strangers() -> None:
    kinds = DurationStats()
    for number in range(20):
        kinds.learn("p", f"k{number}", QUICK)

    kinds.learn("p", "k0", timedelta(seconds=1))

    assert kinds.bundle("p", "new") > 1


def test_a_project_begins_with_what_other_projects_have_shown_of_a_kind() -> None:
    kinds = DurationStats()
    for _ in range(100):
        kinds.learn("p", FUNCTION, QUICK)

    assert kinds.bundle("q", FUNCTION) == LARGEST
    kinds.learn("q", FUNCTION, QUICK)
    assert kinds.bundle("q", FUNCTION) == LARGEST


def test_the_first_word_of_a_shell_command_says_nothing_about_another_project() -> None:
    kinds = DurationStats()
    for _ in range(100):
        kinds.learn("p", "shell:make", QUICK)

    assert (kinds.bundle("p", "shell:make"), kinds.bundle("q", "shell:make")) == (LARGEST, 1)


def test_a_kind_that_is_long_in_one_project_counts_as_long_where_it_is_new_and_stays_short_where_it_is_short() -> None:
    kinds = DurationStats()
    for _ in range(100):
        kinds.learn("p", FUNCTION, QUICK)

    kinds.learn("q", FUNCTION, timedelta(seconds=1))

    assert [kinds.bundle(project, FUNCTION) for project in ("p", "q", "new")] == [LARGEST, 1, 1]
