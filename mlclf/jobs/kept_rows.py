"""The rows of other data that the condition of a fit keeps."""

from __future__ import annotations

import os
from dataclasses import dataclass

from mlclf.data.parquet.plan import Plan
from mlclf.data.passes.partial_passes import count_rows
from mlclf.data.sampling.selection import Selection
from mlclf.data.sampling.splits import Split
from mlclf.data.where.condition import parse_where
from mlclf.data.where.row_groups import check_where
from mlclf.errors import DataError


@dataclass(frozen=True)
class KeptRows:
    """Rows of a plan that a condition keeps, and how many."""

    plan: Plan
    selection: Selection
    rows: int

    @classmethod
    def of(cls, plan: Plan, condition: str, threads: int | None) -> KeptRows:
        """Count the rows, from the columns that decide alone.

        Raises:
            ConfigError: the data lacks a column of the condition, or has it of another type.
            DataError: no row is kept.
        """
        where, split = parse_where(condition), Split()
        check_where(plan, where)
        census = count_rows(plan, split, where, threads or min(os.cpu_count() or 1, 16))
        rows = census.total
        if not rows:
            raise DataError(
                f"data.where of the fit must keep some rows, and keeps none of {plan.rows:,} here: {condition}; "
                "give data of the kind that the run was fitted for"
            )
        return cls(plan, Selection(split, None, census, where), rows)
