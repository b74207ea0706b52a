"""What is asked of a seed and a budget."""

from __future__ import annotations

from mlclf.errors import ConfigError

LEAST_BUDGET_BYTES = 16 << 20


def check_numbers(seed: int, budget: int) -> None:
    if not 0 <= seed < 2**63:
        raise ConfigError(f"--seed must be 0 or more, and below 2**63, got {seed}")
    if budget < LEAST_BUDGET_BYTES:
        raise ConfigError(
            f"--memory-budget must be at least {LEAST_BUDGET_BYTES >> 20} MiB ({LEAST_BUDGET_BYTES:,} bytes), "
            f"got {budget:,} bytes"
        )
