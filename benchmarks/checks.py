"""How a benchmark ends: each goal with what was measured, and how many were met."""

from __future__ import annotations

from collections.abc import Sequence

Check = tuple[str, bool]
"""A goal with its figure, and whether it was met."""


def print_checks(checks: Sequence[Check]) -> tuple[int, int]:
    """Print each check; return how many passed and how many failed."""
    for text, passed in checks:
        print(f"{'ok  ' if passed else 'FAIL'} {text}")
    failed = sum(not passed for _, passed in checks)
    return len(checks) - failed, failed


def concluded(checks: Sequence[Check]) -> int:
    """Print the checks and their number; return the exit code."""
    passed, failed = print_checks(checks)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0
