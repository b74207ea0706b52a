"""Streams of batches over files, as tests make them."""

from __future__ import annotations

from typing import Any

from mlclf.data.parquet.plan import Plan
from mlclf.data.sampling.selection import Selection
from mlclf.data.streaming.batch_order import BatchOrder
from mlclf.data.streaming.batch_stream import BatchStream, FileRows
from mlclf.data.streaming.epoch import Reading
from mlclf.data.streaming.memory_budget import PoolShape
from mlclf.data.streaming.row_encoder import RowEncoder


def file_stream(
    plan: Plan, encoder: RowEncoder, shape: PoolShape, batch_rows: int, selection: Selection | None = None, *,
    threads: int = 2, skip_corrupt: bool = False, **order: Any,
) -> BatchStream:  # fmt: skip
    """Batches of a plan's rows that are read from its files."""
    drawn = selection or Selection(encoder.split)
    rows = FileRows(Reading(encoder, skip_corrupt=skip_corrupt, threads=threads))
    return BatchStream(BatchOrder(plan, drawn, shape, batch_rows, **order), rows)


def rows_of(stream: BatchStream) -> FileRows:
    """Where the rows of such a stream come from."""
    assert isinstance(stream.source, FileRows)
    return stream.source
