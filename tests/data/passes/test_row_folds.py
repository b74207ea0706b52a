"""Folds have their share of each label's rarer class, whatever the labels, and however the rows are cut into files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from mlclf.data.parquet.planning import make_plan
from mlclf.data.passes import row_folds as module
from mlclf.data.passes.row_folds import RareCells, row_folds
from mlclf.data.sampling.splits import Split
from mlclf.data.schema.finding import find_schema
from mlclf.data.where.condition import parse_where


def folds_of(
    folder: Path,
    table: pa.Table,
    labels: str = "label_*",
    *,
    cuts: int = 1,
    where: str | None = None,
    split: Split | None = None,
    **roles: Any,
) -> NDArray[np.int8]:
    """The folds of the rows of a table that is written in so many files."""
    folder.mkdir()
    edges = np.linspace(0, table.num_rows, cuts + 1).astype(int)
    for number, (start, end) in enumerate(pairwise(edges.tolist())):
        pq.write_table(table.slice(start, end - start), folder / f"{number:03d}.parquet", row_group_size=70 * cuts)
    plan = make_plan(str(folder))
    schema = find_schema(plan, [labels], **roles)
    condition = None if where is None else parse_where(where)
    found = row_folds(plan, schema, split or Split("folds", num_folds=5, seed=3), {}, condition)
    assert found is not None
    return found.folds


def in_each(folds: NDArray[np.int8], flags: NDArray[np.bool_], count: int = 5) -> list[int]:
    """Flagged rows of each fold."""
    return np.bincount(folds[flags], minlength=count).tolist()


def rare(rows: int, counts: list[int], seed: int = 0) -> NDArray[np.bool_]:
    """Labels of so many positives each: [rows, labels]."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.permutation(rows) < count for count in counts])


def columns(cells: NDArray[Any]) -> dict[str, Any]:
    return {f"label_{index:03d}": cells[:, index] for index in range(cells.shape[1])}


@pytest.mark.parametrize("count", [1, 3, 5, 10, 13, 200])
@pytest.mark.parametrize("negated", [False, True])
def test_one_label_is_shared_exactly(tmp_path: Path, count: int, negated: bool) -> None:
    """Its positives, or its negatives where these are fewer; and the rows."""
    flags = rare(500, [count])
    folds = folds_of(tmp_path / "data", pa.table({"x": np.arange(500)} | columns(flags ^ negated)))
    shares = in_each(folds, flags[:, 0])
    assert max(shares) - min(shares) <= 1
    assert in_each(folds, np.ones(500, bool)) == [100] * 5


def test_many_rare_labels_are_shared_better_than_by_chance(tmp_path: Path) -> None:
    cells = rare(3000, [2, 3, 5, 8, 10, 15, 20, 30] * 10)
    folds = folds_of(tmp_path / "data", pa.table({"x": np.arange(3000)} | columns(cells)))
    shares = np.array([in_each(folds, flags) for flags in cells.T])
    away = np.abs(shares - cells.sum(0)[:, None] / 5)
    assert away.max() < 2
    by_chance = np.random.default_rng(0).integers(0, 5, 3000)
    chance = np.abs([in_each(by_chance, flags) - flags.sum() / 5 for flags in cells.T])
    assert away.mean() < chance.mean() / 2.5


def test_folds_do_not_depend_on_how_rows_are_cut_into_files(tmp_path: Path) -> None:
    table = pa.table({"x": np.arange(1000)} | columns(rare(1000, [4, 9, 30, 400])))
    whole = folds_of(tmp_path / "one", table)
    np.testing.assert_array_equal(folds_of(tmp_path / "seven", table, cuts=7), whole)


def test_seeds_differ(tmp_path: Path) -> None:
    table = pa.table({"x": np.arange(1000)} | columns(rare(1000, [10])))
    one, two = (folds_of(tmp_path / str(seed), table, split=Split("folds", num_folds=5, seed=seed)) for seed in (1, 2))
    assert 0.1 < (one == two).mean() < 0.3


def test_missing_labels_and_rows_of_weight_zero_count_for_no_class(tmp_path: Path) -> None:
    """Of 40 positives half are in rows of weight 0; of 30 negatives of another label the rest is missing."""
    rng = np.random.default_rng(0)
    flags = rare(1000, [40])[:, 0]
    weights = np.ones(1000)
    weights[np.flatnonzero(flags)[::2]] = 0
    known = rng.permutation(1000) < 300
    negative = known & (rng.permutation(1000) < 100)
    other = pa.array(np.where(negative, 0, 1), mask=~known)
    table = pa.table({"x": np.arange(1000), "w": weights, "label_a": flags, "label_b": other})
    folds = folds_of(tmp_path / "data", table, weight="w")
    assert in_each(folds, flags & (weights > 0)) == [4] * 5
    shares = in_each(folds, negative)
    assert max(shares) - min(shares) <= 1


def test_rows_that_where_drops_take_no_place_in_a_fold(tmp_path: Path) -> None:
    flags = rare(1000, [50])[:, 0]
    table = pa.table({"x": np.arange(1000), "label_a": flags})
    folds = folds_of(tmp_path / "data", table, where="x >= 400")
    kept = np.arange(1000) >= 400
    assert in_each(folds, kept[: len(folds)]) == [120] * 5
    shares = in_each(folds, (flags & kept)[: len(folds)])
    assert max(shares) - min(shares) <= 1


def test_tags_are_shared_too(tmp_path: Path) -> None:
    cells = rare(600, [5, 10, 12, 300])
    tags = [[f"t{index}" for index in np.flatnonzero(row)] * 2 for row in cells]
    folds = folds_of(tmp_path / "data", pa.table({"x": np.arange(600), "tags": tags}), "tags")
    for flags in cells.T[:3]:
        shares = in_each(folds, flags)
        assert max(shares) - min(shares) <= 1


def test_of_many_rows_a_hash_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"x": np.arange(100), "label_a": np.arange(100) % 2}), tmp_path / "data.parquet")
    plan = make_plan(str(tmp_path / "data.parquet"))
    schema = find_schema(plan, ["label_*"])
    monkeypatch.setattr(module, "MOST_ROWS", 99)
    assert row_folds(plan, schema, Split("folds", num_folds=5), {}, None) is None


def test_the_most_frequent_classes_are_dropped_where_there_is_no_room() -> None:
    cells = RareCells(most=100)
    keys = np.array([1, 3, 5])  # the positives of three labels, in one, three and sixteen of twenty rows
    counts = np.array([1, 3, 16])
    for block in range(20):
        cells.trim()
        alive = cells.count(keys, counts)
        some = np.repeat(keys[alive], counts[alive])
        cells.keep(20 * block + np.arange(len(some)), some)
        assert cells._held <= 100 + 20
    rows, labels = cells.rarer(both=False)
    assert np.bincount(labels, minlength=3).tolist() == [20, 60, 0]
    assert (np.diff(rows) > 0).all()


def test_folds_are_told_apart_by_what_they_are(tmp_path: Path) -> None:
    """A cache of encoded rows is named by the split."""
    table = pa.table({"x": np.arange(300)} | columns(rare(300, [10])))
    names = set()
    for seed in (1, 1, 2):
        split = Split("folds", num_folds=5, seed=seed)
        folds_of(tmp_path / f"{len(list(tmp_path.iterdir()))}", table, split=split)
        plan = make_plan(str(tmp_path / "0"))
        names.add(repr(row_folds(plan, find_schema(plan, ["label_*"]), split, {}, None)))
    assert len(names) == 2
