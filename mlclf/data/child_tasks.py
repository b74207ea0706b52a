"""What a child is asked to find out from footers, by name."""

from __future__ import annotations

from mlclf.data.parquet.child_process import serve
from mlclf.data.parquet.column_statistics import described
from mlclf.data.parquet.columns_for_polars import columns_for_polars
from mlclf.data.where.row_groups import groups_that_may_match


def answer() -> None:
    """Do what `in_child` asks for; the main function of the child."""
    serve({"describe": described, "polars": columns_for_polars, "match": groups_that_may_match})
