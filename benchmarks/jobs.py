"""The jobs that the benchmarks run: next to nothing, so that what is measured is the way there and back."""


def nothing() -> None:
    """Return at once."""
