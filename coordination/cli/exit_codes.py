"""The one place that maps error codes to exit codes.

0 done, 1 not all, 2 bad input, 3 stands still until a person acts, 130 interrupted.
"""

from __future__ import annotations

OK = 0
NOT_COMPLETED = 1
REFUSED = 2
STANDS_STILL = 3  # nothing of the run goes on until a person acts, and nobody sits at a terminal
INTERNAL = 70
INTERRUPTED = 130
OUTPUT_CLOSED = 141
"""Whoever read the output has gone, as ``head`` does: what a shell shows of a program that SIGPIPE has ended."""

EXIT_CODES: dict[str, int] = {
    "error": NOT_COMPLETED,
    "stack_gone": NOT_COMPLETED,
    "stack_stopped": INTERRUPTED,
    "refused": REFUSED,
    "ambiguous": REFUSED,
    "plan_error": REFUSED,
    "format_error": REFUSED,
    "settings_error": REFUSED,
    "token_refused": REFUSED,
    "not_found": REFUSED,
    "conflict": REFUSED,
    "illegal_move": REFUSED,
    "lease_lost": REFUSED,
    "stack_running": REFUSED,
    "unavailable": REFUSED,
    "database_unavailable": REFUSED,
    "redis_unavailable": REFUSED,
    "schema_mismatch": REFUSED,
}
