"""The same twelve columns in every Arrow type that holds them: one model, one score, one group, one part."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_types import LOGICAL

from mlclf.data.arrow.arrays import is_bytes
from mlclf.data.convert.splitting import split
from mlclf.jobs.fit import fit
from mlclf.jobs.run import Run
from mlclf.jobs.score_files import evaluate_scores

ROWS = 120
HOME = TemporaryDirectory()


DISTINCT: dict[str, list[Any]] = {
    "flag": [0, 1],
    "small": [0, 7, 100, None],
    "large": [2**53 - 1, -(2**53) + 1, 10**15],
    "unsigned": [2**63, 2**64 - 1],
    "half": [0.25, -7.5, 0.0],
    "single": [float(np.float32(0.1)), float(np.float32(1e30)), -2.0],
    "day": [0, 86_400 * 19_753, -86_400 * 40_000],
    "moment": [1, 1_706_659_200_500_000, 0, None],
    "hour": [0, 36_001],
    "length": [1, -90, 3600],
    "text": ["", "007", "7", "ü", None],
    "fixed": [bytes(range(16)), bytes(range(200, 216)), b"0123456789abcdef"],
}
CODES = np.random.default_rng(0).integers(0, 2**30, (ROWS, len(DISTINCT)))
VALUES = {name: [found[code % len(found)] for code in CODES[:, i]] for i, (name, found) in enumerate(DISTINCT.items())}
"""Of each column, by row."""


def table_of(kinds: dict[str, pa.DataType]) -> pa.Table:
    """The columns in these types, with a label that follows two of them."""
    columns = {name: LOGICAL[name].made(VALUES[name], kind) for name, kind in kinds.items()}
    truth = (CODES[:, 0] + CODES[:, 4] % 3) % 2 == 0
    y = np.where(np.random.default_rng(1).random(ROWS) < 0.2, ~truth, truth)
    group = LOGICAL["small"].made([value % 17 for value in range(ROWS)], kinds["small"])
    return pa.table(columns | {"y": y, "group": group, "row": np.arange(ROWS)})


def written(path: Path, table: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def stored(kind: pa.DataType) -> bool:
    """Whether Parquet has the type."""
    return not pa.types.is_duration(kind) or kind.unit != "s"


FIRST = {name: next(filter(stored, logical.types)) for name, logical in LOGICAL.items()}


def rows_below(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.ParquetFile(path).read() for path in sorted(folder.rglob("*.parquet")))


@cache
def fitted() -> Run:
    """A run on the first type of each column, beside its data and their scores."""
    folder = Path(HOME.name)
    data = written(folder / "a.parquet", table_of(FIRST))
    options = {"optimizer.l2": 0.01, "features.roles": dict.fromkeys(LOGICAL, "categorical"), "features.hash_limit": 4}
    run = fit(data, "y", folder / "run", group="group", exclude="row", valid_fraction=0.3, settings=options)
    run.predict(data, folder / "scores")
    return run


@cache
def report() -> Any:
    return fitted().evaluate(Path(HOME.name) / "a.parquet", by="small", bootstrap=40)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    kinds=st.fixed_dictionaries({n: st.sampled_from(list(filter(stored, c.types))) for n, c in LOGICAL.items()}),
    column=st.sampled_from(list(LOGICAL)),
)
def test_scores_groups_and_parts_are_the_same(kinds: dict[str, pa.DataType], column: str) -> None:
    run = fitted()
    with TemporaryDirectory() as name:
        folder = Path(name)
        data = written(folder / "b.parquet", table_of(kinds))
        run.predict(data, folder / "scores")
        assert rows_below(folder / "scores").equals(rows_below(run.path.parent / "scores"))
        assert run.evaluate(data, by="small", bootstrap=40) == report()
        for index, table in enumerate((table_of(FIRST), table_of(kinds))):
            path = written(folder / f"{index}.parquet", table)
            split(str(path), folder / f"parts{index}", [0.5, 0.5], f"key:{column}")
        for part in ("train", "test"):
            first, second = (rows_below(folder / f"parts{index}" / part)["row"] for index in (0, 1))
            assert first.equals(second)


def in_all_types(folder: Path, name: str) -> list[Path]:
    """The rows in a file for each type of a column; text and bytes do not mix."""
    kinds = [kind for kind in LOGICAL[name].types if stored(kind)]
    if name in ("text", "fixed"):
        kinds = [kind for kind in kinds if is_bytes(kind) == (name == "fixed")]
    return [written(folder / f"{i}.parquet", table_of(FIRST | {name: kind})) for i, kind in enumerate(kinds)]


@pytest.mark.slow
@pytest.mark.parametrize("name", LOGICAL)
def test_one_list_of_files_may_hold_a_column_in_all_its_types(tmp_path: Path, name: str) -> None:
    """In whichever order they come."""
    run, files = fitted(), in_all_types(tmp_path, name)
    expected = rows_below(run.path.parent / "scores")
    for order, out in ((files, "a"), (files[::-1], "b")):
        run.predict(order, tmp_path / out)
        assert rows_below(tmp_path / out).equals(pa.concat_tables([expected] * len(files)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "day", "fixed"])
def test_values_of_all_types_are_evaluated_together(tmp_path: Path, name: str) -> None:
    files = in_all_types(tmp_path, name)
    counts = Counter(value for value in VALUES[name] if value is not None)
    for order in (files, files[::-1]):
        by = fitted().evaluate(order, by=name, bootstrap=40)["by"]["values"]
        assert sorted(value["rows"] for value in by.values()) == sorted(n * len(files) for n in counts.values())


def test_scores_and_labels_join_by_keys_of_any_type(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    keys, score, y = random.permutation(ROWS), random.random(ROWS).astype(np.float32), random.random(ROWS) < 0.3
    reports = []
    for index, kind in enumerate((pa.int16(), pa.uint64(), pa.float32(), pa.decimal128(9, 2))):
        key = (
            pa.array(keys).cast(pa.decimal128(21, 2)).cast(kind) if pa.types.is_decimal(kind) else pa.array(keys, kind)
        )
        labels = written(tmp_path / f"labels{index}.parquet", pa.table({"id": key, "y": y}))
        scores = written(tmp_path / "scores.parquet", pa.table({"id": keys, "score_y": score}))
        reports.append(evaluate_scores(scores, label_data=labels, key="id", scores="score_*", score_kind="probability"))
    assert reports.count(reports[0]) == len(reports)
