"""What a child is asked to find out from footers, by name."""

from __future__ import annotations

from mlclf.data.parquet.child_process import serve
from mlclf.data.parquet.column_statistics import described
from mlclf.data.parquet.polars_columns import plain_columns
from mlclf.data.where.row_groups import groups_that_may_match


def answer() -> None:
    """Do what `in_child` asks for; the main function of the child."""
    serve({"describe": described, "plain": plain_columns, "match": groups_that_may_match})
