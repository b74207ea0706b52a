from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.data.features.fitted_column import EncodingOptions
from mlclf.data.features.numeric import NumericColumn
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.passes.partial_passes import piece_rows, time_cut
from mlclf.data.passes.statistics import Statistics, fit_statistics
from mlclf.data.sampling.splits import CHOICE, DECISION, TRAIN, Split
from mlclf.data.schema.finding import find_schema
from mlclf.data.schema.schema import Schema
from mlclf.data.streaming.pool import Pool
from mlclf.data.streaming.row_encoder import RowEncoder
from mlclf.errors import ConfigError, DataError
from mlclf.progress import Steps

ROWS = 400


def write(folder: Path, columns: dict[str, Any], shards: int = 3, row_group_size: int = 40) -> Plan:
    table = pa.table(columns)
    edges = np.linspace(0, table.num_rows, shards + 1).astype(int)
    for index in range(shards):
        part = table.slice(edges[index], edges[index + 1] - edges[index])
        pq.write_table(part, folder / f"{index}.parquet", row_group_size=row_group_size)
    return make_plan(str(folder))


def statistics_of(plan: Plan, schema: Schema, split: Split | None = None, **settings: Any) -> Statistics:
    defaults = {"label_values": {}, "options": EncodingOptions(True, 100, 1000, 16), "threads": 2}
    steps = Steps(fit_statistics(plan, schema, split or Split(), **(defaults | settings)))
    seen = [step.done for step in steps]
    assert seen == sorted(seen)
    assert seen[-1] == plan.rows
    return steps.result


def columns_of() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "x": pa.array(np.where(rng.random(ROWS) < 0.2, None, rng.normal(size=ROWS)), pa.float64()),
        "s": pa.array(rng.choice(["a", "b", "c"], ROWS, p=[0.6, 0.3, 0.1])),
        "w": rng.choice([0.0, 1.0, 2.0], ROWS),
        "y": pa.array(np.where(rng.random(ROWS) < 0.1, None, rng.integers(0, 2, ROWS)), pa.int8()),
        "z": rng.integers(0, 2, ROWS),
        "tags": [[f"t{value}" for value in rng.integers(0, 9, size)] if size else None
                 for size in rng.integers(0, 4, ROWS)],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["none", "folds", "held_out"])
@pytest.mark.parametrize("weight", [None, "w"])
def test_one_pass_finds_everything(tmp_path: Path, kind: str, weight: str | None) -> None:
    columns = columns_of()
    plan = write(tmp_path, columns)
    split = Split(kind, fraction=0.4, num_folds=5, seed=1)
    schema = find_schema(plan, ["y", "z"], exclude=["tags"] if weight else ["tags", "w"], weight=weight)
    found = statistics_of(plan, schema, split)
    parts = split.parts(np.arange(ROWS), None)
    weights = columns["w"] if weight else np.ones(ROWS)
    trained = parts == TRAIN if kind == "held_out" else np.ones(ROWS, bool)
    x = np.array(columns["x"].to_pylist(), float)
    known = trained & ~np.isnan(x)
    numeric = found.features.columns[0]
    assert isinstance(numeric, NumericColumn)
    moments = numeric.moments
    mean = np.average(x[known], weights=weights[known])
    # The order of summation differs.
    assert moments.mean[0] == pytest.approx(mean, rel=1e-9)
    assert moments.deviation()[0] == pytest.approx(np.sqrt(np.average((x[known] - mean) ** 2, weights=weights[known])))
    assert moments.missing[0] == (trained & np.isnan(x)).sum()
    levels = Counter(value for value, mine in zip(columns["s"].to_pylist(), trained, strict=True) if mine)
    assert found.features.vocabulary_size == 2 + len(levels)
    assert found.rows == {part: int((parts == part).sum()) for part in range(split.num_parts)}
    for label, name in enumerate(found.label_names):
        values = np.array(pa.array(columns[name]).to_pylist(), float)
        for part in range(split.num_parts):
            mine = parts == part
            assert found.counts.positives[part, label] == weights[mine & (values == 1)].sum()
            assert found.counts.totals[part, label] == weights[mine & ~np.isnan(values)].sum()
            assert found.counts.rows[part, label] == (mine & ~np.isnan(values) & (weights > 0)).sum()
    assert found.label_names == ("y", "z")


def test_tags_are_counted_before_and_after_they_turn_up(tmp_path: Path) -> None:
    tags: list[Any] = [None, [], ["b"], ["a", "a", "b"], ["rare"], None, ["a"]]
    plan = write(tmp_path, {"x": range(7), "tags": pa.array(tags, pa.list_(pa.string()))}, row_group_size=1)
    found = statistics_of(plan, find_schema(plan, ["tags"]))
    assert found.label_names == found.labels.names == ("a", "b", "rare")
    assert found.counts.positives.tolist() == [[2, 2, 1]]
    assert found.counts.totals.tolist() == [[5, 5, 5]]


def test_the_size_of_a_row_is_that_of_the_encoded_arrays(tmp_path: Path) -> None:
    plan = write(tmp_path, columns_of())
    schema = find_schema(plan, ["y", "z"], exclude=["tags", "w"])
    found = statistics_of(plan, schema)
    # dense x and its indicator 8, one id 4, two labels 2, order 8
    assert found.row_bytes == pytest.approx(8 + 4 + 2 + 8, rel=0.01)
    assert 8 < found.decoded_row_bytes < 60


def test_dropped_columns_and_mapped_labels_are_said(tmp_path: Path) -> None:
    plan = write(
        tmp_path,
        {"x": [1.0, 2.0], "n": pa.nulls(2), "c": [5, 5], "s": ["k", "k"], "y": ["yes", "no"]},
        shards=1,
    )
    found = statistics_of(plan, find_schema(plan, ["y"]))
    assert found.warnings == [
        "column 'n' has no value in any row; it is left out",
        "column 'c' is constant (5); it is left out",
        "column 's' is constant ('k'); it is left out",
        "labels 'y': 'no' is read as 0, 'yes' as 1",
    ]
    assert (found.features.num_dense, found.features.vocabulary_size) == (1, 0)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"x": [1.0] * 6 + [float("inf"), 2.0]},
     ("{path} row group 3 column 'x': values must be finite, found 1 infinite; replace them by null (missing) or by a "
     "number where the data is written, or leave the column out of a fit with --exclude")),
    ({"y": [0, 1, 0, 1, 0, 7, 0, 1]},
     ("{path} row group 2: label 'y' must be 0, 1 or null, found '7'; say what the values mean, such as "
     "--set 'data.label_values={{\"7\": null}}' (0, 1, or null for not observed)")),
    ({"l": [["a"]] * 4 + [["a", None]] + [["a"]] * 3},
     ("{path} row group 2: column 'l' has a list with a null inside; a whole list may be null (missing), "
     "its elements may not: drop or fill them where the data is written")),
    ({"w": [1.0] * 7 + [-1.0]},
     ("{path} row group 3 column 'w': row weights must be 0 or more, found -1.0 in 1 rows; "
     "fill or drop them where the data is written")),
    ({"w": [1.0, None, None] + [1.0] * 5},
     ("{path} row group 0 column 'w': row weights must be 0 or more, found null in 1 rows; "
     "fill or drop them where the data is written")),
    ({"w": [1e300] * 8},
     ("{path} row group 0 column 'w': row weights must be 0 or more and fit float32 (up to 3.4e38), found 1e+300 in "
     "2 rows; scale them where the data is written")),
    ({"w": [0.0] * 8},
     "no row is left to train on: each of the 8 rows is held out or has weight 0 in 'w'; hold out fewer"),
    ({"x": [1.0] * 8, "l": [[]] * 8},
     ("no column is left to learn from:\ncolumn 'x' is constant (1); it is left out\n"
     "column 'l' has no token in any row; it is left out")),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "message"), BAD)
def test_bad_rows_are_placed(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    good = {"x": np.arange(8.0), "l": [["a"], ["b"]] * 4, "w": [1.0] * 8, "y": [0, 1] * 4}
    columns = good | columns
    columns["l"] = pa.array(columns["l"], pa.list_(pa.string()))
    plan = write(tmp_path, columns, shards=1, row_group_size=2)
    schema = find_schema(plan, ["y"], weight="w")
    whole = message.format(path=tmp_path / "0.parquet")
    with pytest.raises(DataError, match=f"^{re.escape(whole)}$"):
        statistics_of(plan, schema)


def test_text_that_is_not_utf8_is_placed(tmp_path: Path) -> None:
    raw = pa.array([b"a", b"b", b"\xff\xfe", b"c"])
    text = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    plan = write(tmp_path, {"x": range(4), "s": text, "y": [0, 1, 0, 1]}, shards=1, row_group_size=1)
    path = tmp_path / "0.parquet"
    message = rf"^{re.escape(str(path))} row group 2 column 's': holds values that cannot be read \(.+\); "
    message += "write the file again, text as UTF-8$"
    with pytest.raises(DataError, match=message):
        statistics_of(plan, find_schema(plan, ["y"]))


def test_no_tag_at_all(tmp_path: Path) -> None:
    plan = write(tmp_path, {"x": [1, 2], "tags": pa.array([[], None], pa.list_(pa.string()))}, shards=1)
    message = "column 'tags' holds no tag in any row; name another column with --labels"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        statistics_of(plan, find_schema(plan, ["tags"]))


def test_a_cut_in_time(tmp_path: Path) -> None:
    times = np.random.default_rng(0).permutation(1000)
    plan = write(tmp_path, {"t": pa.array(times, pa.timestamp("s")), "x": range(1000)})
    cut = time_cut(plan, "t", 0.2, 2)
    parts = Split("held_out", fraction=0.2, time="t", cut=cut).parts(
        np.arange(1000), pa.table({"t": pa.array(times, pa.timestamp("s"))})
    )
    assert ((parts == CHOICE) | (parts == DECISION)).tolist() == (times > cut).tolist()
    assert abs((parts != TRAIN).sum() - 200) <= 1


def test_ties_in_time_still_hold_rows_out(tmp_path: Path) -> None:
    plan = write(tmp_path, {"t": [1] + [2] * 9, "x": range(10)}, shards=1)
    assert time_cut(plan, "t", 0.1, 1) == 1


def test_one_time_is_no_split(tmp_path: Path) -> None:
    plan = write(tmp_path, {"t": [1, 1, None], "x": range(3)}, shards=1)
    message = "--valid-by time:t: the column has fewer than two distinct times; split another way"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        time_cut(plan, "t", 0.5, 1)


def test_pieces_are_smaller_where_rows_are_wide(tmp_path: Path) -> None:
    narrow = write(tmp_path, {"x": range(10)}, shards=1)
    assert piece_rows(narrow) == 65_536
    wide = pa.array(np.zeros((4, 1 << 16), np.float32).tolist(), pa.list_(pa.float32(), 1 << 16))
    pq.write_table(pa.table({"v": wide}), tmp_path / "0.parquet")
    assert piece_rows(make_plan(str(tmp_path))) == 128


def test_an_encoder_reads_each_column_once(tmp_path: Path) -> None:
    plan = write(tmp_path, columns_of())
    schema = find_schema(plan, ["y"], exclude=["tags", "z"], weight="w", key="s", group="s")
    found = statistics_of(plan, schema)
    split = Split("folds", num_folds=2, group="s")
    encoder = RowEncoder(schema, found.features, found.labels, 1, split, "w", ("s",))
    assert encoder.columns == ("x", "y", "w", "s")
    without = RowEncoder(schema, found.features, None, 1)
    assert without.columns == ("x",)
    slab = Pool(1, 4, without.layout).acquire()
    assert slab is not None
    without.encode(np.array([5, 7]), pa.table({"x": [1.0, None]}), "place", slab)
    assert (slab.rows, slab.complete, slab.arrays["dense"].shape) == (2, False, (4, 2))
    assert (slab.arrays["codes"][:2].tolist(), slab.first_row) == ([[2], [2]], 5)


def test_declared_label_values_must_match_something(tmp_path: Path) -> None:
    plan = write(tmp_path, {"x": range(8), "y": ["Yes", "No"] * 4, "t": [["a"], ["b"]] * 4})
    schema = find_schema(plan, ["y"], exclude=["t"])
    message = (
        "data.label_values: every value must be one of the labels', found 'YES', 'NO' in no row that was read; "
        "the labels hold 'No', 'Yes': write the values as the data has them, or leave them out"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        statistics_of(plan, schema, label_values={"YES": 0, "NO": 1})
    found = statistics_of(plan, schema, label_values={"Yes": 0, "No": 1, "?": None})
    assert found.counts.positives.tolist() == [[4.0]]
    assert "data.label_values: no label has the value '?' in any row" in found.warnings


def test_label_values_are_not_for_tags(tmp_path: Path) -> None:
    plan = write(tmp_path, {"x": range(8), "t": [["a"], ["b"]] * 4})
    message = (
        "data.label_values: is for label columns, and 't' is a list of tags, which are labels as they are; leave it out"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        statistics_of(plan, find_schema(plan, ["t"]), label_values={"a": 1})
