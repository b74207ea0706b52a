"""Splits: each row in exactly one part, in order, and each label with its share of each part."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlclf.data.convert import splitting
from mlclf.data.convert.splitting import split, split_steps
from mlclf.data.sampling.stratification import Stratifier
from mlclf.errors import ConfigError, DataError


def data(folder: Path, rows: int, files: int = 2, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    labels = {f"label_{k}": (rng.random(rows) < share).astype(np.uint8) for k, share in enumerate((0.5, 0.1, 0.02))}
    tags = [[str(k) for k in range(3) if labels[f"label_{k}"][row]] for row in range(rows)]
    columns = {"id": np.arange(rows), "who": rng.integers(0, max(1, rows // 5), rows), "when": rng.random(rows)}
    table = pa.table(columns | labels | {"tags": pa.array(tags, pa.list_(pa.string()))})
    folder.mkdir(parents=True, exist_ok=True)
    for index, places in enumerate(np.array_split(np.arange(rows), files)):
        pq.write_table(table.take(pa.array(places)), folder / f"{index}.parquet", row_group_size=37)
    return table


def read(folder: Path, name: str) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted((folder / name).glob("*.parquet"))])


WAYS: list[tuple[str, dict[str, Any]]] = [
    ("hash", {}), ("key:who", {}), ("group:who", {}), ("time:when", {}), ("stratified", {"labels": ["label_*"]}),
    ("stratified", {"labels": ["tags"]}),
]  # fmt: skip


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    way=st.sampled_from(WAYS), rows=st.integers(2, 300), files=st.integers(1, 3), seed=st.integers(0, 2**63),
    shares=st.lists(st.integers(1, 9), min_size=2, max_size=5), piece=st.sampled_from([7, 16_384]),
)  # fmt: skip
def test_each_row_is_in_exactly_one_part_in_order(
    tmp_path_factory: pytest.TempPathFactory, way: tuple[str, dict[str, Any]], rows: int, files: int, seed: int,
    shares: list[int], piece: int,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("split")
    table = data(folder / "in", rows, min(files, rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "PIECE_ROWS", piece)
        fractions = [share / sum(shares) for share in shares]
        done = split(str(folder / "in"), folder / "out", fractions, way[0], seed=seed, **way[1])
    parts = {name: read(folder / "out", name) for name in done.rows}
    assert {name: part.num_rows for name, part in parts.items()} == done.rows
    assert len(parts) == len(shares)
    for part in parts.values():
        assert part.schema == table.schema
        assert np.all(np.diff(part.column("id").to_numpy()) > 0)
    assert pa.concat_tables(parts.values()).sort_by("id").equals(table)
    if ":who" in way[0]:
        owners = [set(part.column("who").to_pylist()) for part in parts.values()]
        assert sum(map(len, owners)) == len(set.union(*owners))
    if way[0].startswith("time"):
        times = [part.column("when").to_numpy() for part in parts.values() if part.num_rows]
        assert all(before.max() < after.min() for before, after in pairwise(times))


def test_parts_have_their_shares_and_follow_the_seed(tmp_path: Path) -> None:
    data(tmp_path / "in", 20_000)
    for way, options in WAYS:
        if way in ("key:who", "group:who"):
            continue
        done = split(str(tmp_path / "in"), tmp_path / "out", [0.7, 0.2, 0.1], way, overwrite=True, **options)
        shares = np.array(list(done.rows.values())) / 20_000
        assert np.abs(shares - [0.7, 0.2, 0.1]).max() < 4 * np.sqrt(0.25 / 20_000)
    split(str(tmp_path / "in"), tmp_path / "a", [0.5, 0.5], seed=1)
    split(str(tmp_path / "in"), tmp_path / "b", [0.5, 0.5], seed=1)
    split(str(tmp_path / "in"), tmp_path / "c", [0.5, 0.5], seed=2)
    assert read(tmp_path / "a", "test").equals(read(tmp_path / "b", "test"))
    assert not read(tmp_path / "a", "test").equals(read(tmp_path / "c", "test"))


def test_rare_labels_have_their_shares_in_each_part() -> None:
    """Against chance: 200 labels of 10 to 200 positives among 8,000 rows, whole and in windows of 1,000."""
    rng = np.random.default_rng(0)
    fractions = np.array([0.8, 0.1, 0.1])
    cells = rng.random((8_000, 200)) < np.geomspace(10, 200, 200) / 8_000
    by_chance = deviation(cells, rng.choice(3, 8_000, p=fractions), fractions)
    for window in (8_000, 1_000):
        stratifier = Stratifier(fractions, 0)
        found = [stratifier.parts(*np.nonzero(cells[low : low + window]), window) for low in range(0, 8_000, window)]
        parts = np.concatenate(found)
        assert deviation(cells, parts, fractions) < by_chance / 2
        rows = np.flatnonzero(cells.sum(0) >= 10)
        assert all(cells[parts == part][:, rows].any(0).all() for part in range(3))
        assert np.abs(np.bincount(parts) / 8_000 - fractions).max() < 0.01


def deviation(cells: np.ndarray[Any, Any], parts: np.ndarray[Any, Any], fractions: np.ndarray[Any, Any]) -> float:
    """Mean relative deviation of what parts have of labels from their shares."""
    have = np.stack([cells[parts == part].sum(0) for part in range(len(fractions))])
    want = fractions[:, None] * cells.sum(0)
    return float(np.mean(np.abs(have - want) / want))


def test_one_label_is_shared_exactly() -> None:
    cells = np.zeros((100, 1), bool)
    cells[::10] = True
    parts = Stratifier(np.array([0.8, 0.1, 0.1]), 3).parts(*np.nonzero(cells), 100)
    assert np.bincount(parts[::10]).tolist() == [8, 1, 1]
    assert np.bincount(parts).tolist() == [80, 10, 10]


def test_a_split_that_is_left_removes_its_temporaries(tmp_path: Path) -> None:
    data(tmp_path / "in", 100)
    steps = split_steps(str(tmp_path / "in"), tmp_path / "out", [0.5, 0.5])
    next(steps)
    assert len(list(tmp_path.iterdir())) == 2
    steps.close()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fractions": [0.5, 0.4]}, "--fractions must be 2 to 100 positive numbers of sum 1, got '0.5,0.4'"),
        ({"fractions": [1.0]}, "--fractions must be 2 to 100 positive numbers of sum 1, got '1'"),
        ({"fractions": [1.5, -0.5]}, "--fractions must be 2 to 100 positive numbers of sum 1, got '1.5,-0.5'"),
        ({"by": "row"}, "--by must be hash, key:COL, time:COL, group:COL or stratified, got 'row'"),
        ({"by": "key:"}, "--by must be hash, key:COL, time:COL, group:COL or stratified, got 'key:'"),
        ({"by": "stratified"}, "--by stratified: labels must be given with --labels"),
        ({"labels": ["label_0"]}, "--labels: is for --by stratified only, got --by hash"),
        ({"by": "time:wen"}, "--by: no column 'wen'; the nearest columns are 'when'"),
        ({"by": "group:whom"}, "--by: no column 'whom'; the nearest columns are 'who', 'when'"),
        ({"seed": -1}, "--seed must be 0 or more, and below 2**63, got -1"),
        ({"seed": 2**63}, f"--seed must be 0 or more, and below 2**63, got {2**63}"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    data(tmp_path / "in", 10)
    with pytest.raises(ConfigError) as error:
        split(str(tmp_path / "in"), tmp_path / "out", **({"fractions": [0.5, 0.5]} | options))
    assert str(error.value) == words
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_one_time_cannot_be_split(tmp_path: Path) -> None:
    pq.write_table(pa.table({"when": [3, 3, 3]}), tmp_path / "in.parquet")
    words = "--by time:when: the column has fewer than two distinct times; split another way"
    with pytest.raises(DataError, match=f"^{words}$"):
        split(str(tmp_path / "in.parquet"), tmp_path / "out", [0.5, 0.5], "time:when")


def test_only_what_split_wrote_is_replaced(tmp_path: Path) -> None:
    data(tmp_path / "in", 50)
    for _ in range(2):
        split(str(tmp_path / "in"), tmp_path / "out", [0.5, 0.5], overwrite=True)
    (tmp_path / "out" / "train" / "mine.txt").touch()
    with pytest.raises(ConfigError, match=r"split wrote, and this folder holds 'train/mine\.txt', which is not on"):
        split(str(tmp_path / "in"), tmp_path / "out", [0.5, 0.5], overwrite=True)


def test_parts_have_the_names_that_are_given(tmp_path: Path) -> None:
    data(tmp_path / "in", 50)
    done = split(str(tmp_path / "in"), tmp_path / "out", [0.8, 0.2], names=["train", "calibration"])
    assert list(done.rows) == ["train", "calibration"]
    assert read(tmp_path / "out", "calibration").num_rows == done.rows["calibration"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a"], "--names must be as many as --fractions, 2, got 1"),
        (["a", "a"], "--names must be distinct, of letters, digits, '_', '-' and '.', and not begin with '.', got 'a'"),
        (["a", "../b"], "--names must be distinct, of .*, got '../b'"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path: Path, names: list[str], words: str) -> None:
    data(tmp_path / "in", 5)
    with pytest.raises(ConfigError, match=f"^{words}$"):
        split(str(tmp_path / "in"), tmp_path / "out", [0.8, 0.2], names=names)


def made(folder: Path, **columns: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return str(folder / "a.parquet")


@pytest.mark.parametrize("by", ["group:g", "key:g"])
def test_rows_without_a_group_are_each_their_own(tmp_path: Path, by: str) -> None:
    rng = np.random.default_rng(0)
    values = [None if rng.random() < 0.5 else f"c{rng.integers(0, 100)}" for _ in range(2000)]
    path = made(tmp_path / "in", g=values, id=range(2000))
    for seed in range(3):
        done = split(path, tmp_path / f"{seed}", [0.8, 0.2], by, seed=seed)
        assert done.rows["test"] == pytest.approx(400, rel=0.35)
        parts = {name: read(tmp_path / f"{seed}", name).column("g").to_pylist() for name in ("train", "test")}
        assert set(filter(None, parts["train"])).isdisjoint(filter(None, parts["test"]))
        assert parts["test"].count(None) == pytest.approx(0.2 * values.count(None), rel=0.35)


@pytest.mark.parametrize("names", [["site0", "site1", "site4"], ["a", "b", "c"], [1, 2, 3]])
def test_few_groups_fill_all_parts(tmp_path: Path, names: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    path = made(tmp_path / "in", g=[names[row % 3] for row in range(300)])
    done = split(path, tmp_path / "out", [0.34, 0.33, 0.33], "group:g")
    assert done.rows == {"train": 100, "valid": 100, "test": 100}
    assert not caplog.records


def test_parts_far_from_what_was_asked_for_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cases: dict[str, tuple[dict[str, Any], str, str]] = {
        "one": ({"g": ["a"] * 100}, "group:g",
                "train has 100 (100%, for 80%), test has 0 (0%, for 20%); groups stay together"),
        "two": ({"g": ["a"] * 50 + ["b"] * 50}, "group:g",
                "train has 50 (50%, for 80%), test has 50 (50%, for 20%); groups stay together"),
        "day": ({"t": [1] * 300 + [2] * 300}, "time:t",
                "train has 300 (50%, for 80%), test has 300 (50%, for 20%); equal times too"),
        "row": ({"x": [1]}, "hash", "train has 1 (100%, for 80%), test has 0 (0%, for 20%)"),
    }  # fmt: skip
    for name, (columns, by, words) in cases.items():
        caplog.clear()
        split(made(tmp_path / name, **columns), tmp_path / f"out {name}", [0.8, 0.2], by)
        assert [record.message for record in caplog.records] == [f"the parts are not those asked for: {words}"]


def test_labels_alone_are_stratified(tmp_path: Path) -> None:
    image = pa.array([{"bytes": b"\x89PNG", "path": f"{number}.png"} for number in range(100)])
    cases: dict[str, tuple[list[Any], Any]] = {
        "tags": ([["cat"], ["dog"], ["cat", "dog"], []] * 25, lambda row: "cat" in row),
        "elements": ([[1, 0], [0, 1], [1, 1], [0, 0]] * 25, lambda row: row[0] == 1),
        "column": (["yes", "no"] * 50, lambda row: row == "yes"),
    }
    for name, (labels, is_positive) in cases.items():
        for columns in ({"image": image, "y": labels}, {"y": labels}):
            out = tmp_path / f"{name} {len(columns)}"
            done = split(made(tmp_path / name, **columns), out, [0.8, 0.2], "stratified", labels=["y"])
            assert done.rows == {"train": 80, "test": 20}
            assert sum(map(is_positive, read(out, "test").column("y").to_pylist())) == 10


def test_a_label_that_is_called_like_the_glob_is_said(tmp_path: Path) -> None:
    table = data(tmp_path / "in", 60, files=1)
    pq.write_table(table.append_column("label_*", table["label_0"]), tmp_path / "in" / "0.parquet")
    steps = split_steps(str(tmp_path / "in"), tmp_path / "out", [0.5, 0.5], "stratified", labels=["label_*"])
    assert [step.note for step in steps if step.note] == [
        (
            "--labels: 'label_*' is the name of a column, and a pattern that 'label_0' and 2 more match(es): all of "
            "them are taken; 'label_[*]' is the column alone"
        )
    ]
