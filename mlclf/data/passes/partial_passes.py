"""Passes over few columns: counts of rows, damaged units, the time that splits the rows."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlclf.data.arrow.times import time_values
from mlclf.data.features.encoder import FeatureEncoder
from mlclf.data.labels.label_columns import LabelColumns
from mlclf.data.parquet.child_process import CHILD_BYTES
from mlclf.data.parquet.decoding import damage_of
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.readers import decoded_pieces
from mlclf.data.sampling.census import Census
from mlclf.data.sampling.selection import Selection
from mlclf.data.sampling.splits import Split
from mlclf.data.schema.schema import Schema
from mlclf.data.streaming.row_encoder import RowEncoder
from mlclf.data.where.condition import Where
from mlclf.data.where.row_groups import matching_groups
from mlclf.errors import DataError

PIECE_BYTES = 32 << 20
PIECE_ROWS = 65_536
TIME_SAMPLE = 1_000_000


def piece_rows(plan: Plan) -> int:
    """Rows of a piece whose decoded columns take about PIECE_BYTES."""
    return int(max(64, min(PIECE_ROWS, PIECE_BYTES / max(plan.row_bytes, 1.0))))


def without_corrupt(plan: Plan, schema: Schema, split: Split, where: Where | None, threads: int) -> Plan | None:
    """The plan without the units that cannot be read; None where that leaves nothing, or none is found."""
    encoder = RowEncoder(schema, FeatureEncoder([]), LabelColumns(()), 0, split, schema.weight)
    corrupt = corrupt_units(plan, [*encoder.columns, *(where.columns if where else ())], threads)
    return None if not corrupt or len(corrupt) == len(plan.units) else plan.without(corrupt)


def corrupt_units(plan: Plan, columns: Sequence[str], threads: int) -> dict[int, str]:
    """The units that cannot be read, and why: every value of the columns is looked at."""
    with ThreadPoolExecutor(threads) as pool:
        rows = piece_rows(plan)
        found = pool.map(lambda index: damage_of(plan, index, columns, rows), range(len(plan.units)))
        return {index: damage for index, damage in enumerate(found) if damage is not None}


def count_rows(plan: Plan, split: Split, where: Where | None, threads: int) -> Census:
    """Count the rows of each part that `where` keeps, reading only the columns that decide it."""
    census, selection = Census(plan, split.num_parts), Selection(split, where=where)
    columns = [name for name in (split.group, split.time, *selection.columns) if name]

    def count(first_row: int, table: pa.Table, place: str) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        numbers, kept = selection.kept(first_row, table)
        return numbers, split.parts(numbers, kept)

    order = matching_units(plan, where)
    for numbers, parts in decoded_pieces(plan, order, list(dict.fromkeys(columns)), PIECE_ROWS, count, threads=threads):
        census.add(numbers, parts)
    return census


def matching_units(plan: Plan, where: Where | None) -> list[int]:
    """The units that may hold a row that `where` keeps, by their footers; all units if the data is small."""
    if where is None or plan.decoded_bytes < CHILD_BYTES:
        return list(range(len(plan.units)))
    groups = matching_groups(plan.shards, where)
    return [index for index, unit in enumerate(plan.units) if not set(unit.groups).isdisjoint(groups[unit.shard])]


def time_cut(plan: Plan, column: str, fraction: float, threads: int, where: Where | None = None) -> float:
    """The time after which about `fraction` of the rows lie, from an even sample of at most a million rows."""
    step = max(1, plan.rows // TIME_SAMPLE)
    selection = Selection(Split(), where=where)
    samples = decoded_pieces(
        plan,
        range(len(plan.units)),
        list(dict.fromkeys([column, *selection.columns])),
        PIECE_ROWS,
        lambda first_row, table, place: time_values(selection.kept(first_row, table)[1].column(column), column)[::step],
        threads=threads,
    )
    values = np.concatenate(list(samples))
    values = values[np.isfinite(values)]
    if not len(values) or values.min() == values.max():
        raise DataError(f"--valid-by time:{column}: the column has fewer than two distinct times; split another way")
    cut = float(np.quantile(values, 1 - fraction, method="lower"))
    return cut if cut < values.max() else float(values[values < values.max()].max())
