from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

import mlclf
from mlclf.data.parquet.planning import make_plan
from mlclf.data.passes import partial_passes
from mlclf.data.streaming.slab_cache import SlabCache
from mlclf.data.where.condition import parse_where
from mlclf.errors import ConfigError, CorruptDataError, DataError

ROWS = 3000


def table_of(start: int, rows: int) -> pa.Table:
    numbers = np.arange(start, start + rows)
    return pa.table({
        "number": numbers.astype(np.float64), "kind": pa.array([f"k{n % 3}" for n in numbers]),
        "label_a": numbers % 2 == 0, "label_b": (numbers % 5 == 0).astype(np.int8),
    })  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(3):
        path = tmp_path / "data" / f"{index}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table_of(index * 1000, 1000), path, row_group_size=200, write_page_checksum=True)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlclf.data.parquet.planning.UNIT_ROWS", 200)


def numbers_of(loader: Any) -> list[int]:
    return [number for batch in loader for number in batch.rows.tolist()]


def test_a_loop_of_ones_own(folder: Path) -> None:
    loader = mlclf.ParquetLoader(str(folder), labels="label_*", batch_rows=256, seed=3)
    assert loader.label_names == ("label_a", "label_b")
    assert (len(loader), loader.num_rows) == (12, ROWS)
    assert (loader.features.num_dense, loader.features.vocabulary_size) == (1, 5)
    orders = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        orders.append(numbers_of(loader))
        assert sorted(orders[-1]) == list(range(ROWS))
    assert orders[0] != orders[1]
    for batch in loader:
        assert batch.labels[:, 0].tolist() == [int(number % 2 == 0) for number in batch.rows]
        scaled = (batch.rows - (ROWS - 1) / 2) / np.arange(ROWS).std()
        np.testing.assert_allclose(batch.dense[:, 0], scaled, atol=1e-6)
        assert batch.offsets.tolist() == list(range(len(batch) + 1))
    assert loader.num_bytes <= 512 << 20


def test_validation_data_is_encoded_as_training_data_was(folder: Path, tmp_path: Path) -> None:
    train = mlclf.ParquetLoader(str(folder), labels="label_*", batch_rows=256)
    pq.write_table(table_of(9000, 50), tmp_path / "valid.parquet")
    valid = mlclf.ParquetLoader(tmp_path / "valid.parquet", batch_rows=20, features=train.features, shuffle=False)
    batches = list(valid)
    assert [len(batch) for batch in batches] == [20, 20, 10]
    expected = (np.arange(9000, 9050) - (ROWS - 1) / 2) / np.arange(ROWS).std()
    np.testing.assert_allclose(torch.cat([batch.dense for batch in batches])[:, 0], expected, rtol=1e-5)
    assert batches[0].labels[:, 0].tolist() == [1, 0] * 10
    pq.write_table(table_of(0, 5).drop_columns("kind"), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="'kind'"):
        mlclf.ParquetLoader(tmp_path / "other.parquet", features=train.features)


def test_states_go_to_another_loader(folder: Path) -> None:
    loader = mlclf.ParquetLoader(str(folder), labels="label_*", batch_rows=100)
    loader.set_epoch(4)
    iterator = iter(loader)
    first = [next(iterator).rows.tolist() for _ in range(7)]
    state = loader.state_dict()
    rest = [batch.rows.tolist() for batch in iterator]
    other = mlclf.ParquetLoader(str(folder), labels="label_*", batch_rows=100, threads=1, features=loader.features)
    other.load_state_dict(state)
    assert [batch.rows.tolist() for batch in other] == rest
    assert [batch.rows.tolist() for batch in other] == first + rest


@pytest.mark.slow
@pytest.mark.parametrize("pruned", [True, False], ids=["by the footers", "small data, all read"])
def test_where(folder: Path, pruned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if pruned:
        monkeypatch.setattr(partial_passes, "CHILD_BYTES", 0)
    plan = make_plan(str(folder))
    assert (len(partial_passes.matching_units(plan, parse_where("number < 100"))) < len(plan.units)) == pruned
    condition = "number < 1500 AND kind = 'k1'"
    loader = mlclf.ParquetLoader(str(folder), labels="label_*", batch_rows=100, where=condition)
    expected = [number for number in range(1500) if number % 3 == 1]
    assert loader.num_rows == len(expected)
    assert sorted(numbers_of(loader)) == expected
    assert loader.features.vocabulary_size == 0  # one level is left
    again = mlclf.ParquetLoader(str(folder), batch_rows=100, where="number >= 2900", features=loader.features)
    assert sorted(numbers_of(again)) == list(range(2900, 3000))
    for rank in range(2):
        mine = mlclf.ParquetLoader(
            str(folder), batch_rows=100, where=condition, features=loader.features, rank=rank, world_size=2
        )
        assert len(list(mine)) == len(loader) == 5
    with pytest.raises(DataError, match=r"^data\.where keeps none of the 3,000 rows: number < 0$"):
        mlclf.ParquetLoader(str(folder), labels="label_*", where="number < 0")
    with pytest.raises(ConfigError, match="nummer"):
        mlclf.ParquetLoader(str(folder), labels="label_*", where="nummer < 0")


def damage(path: Path) -> None:
    """Change a byte of a page of the second row group."""
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    content[chunk.dictionary_page_offset + chunk.total_compressed_size - 10] ^= 1
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a disk does that goes bad


@pytest.mark.parametrize("fitted", [True, False])
def test_damaged_row_groups_are_set_aside(folder: Path, fitted: bool) -> None:
    features = None if fitted else mlclf.ParquetLoader(str(folder), labels="label_*").features
    damage(folder / "1.parquet")
    (folder / "3.parquet").write_bytes(b"PAR1 no footer")
    options: dict[str, Any] = {"labels": "label_*", "batch_rows": 100, "features": features}
    with pytest.raises(DataError, match=r"3\.parquet: truncated"):
        mlclf.ParquetLoader(str(folder), **options)
    loader = mlclf.ParquetLoader(str(folder), on_corrupt="skip", **options)
    assert [(Path(place.split(".parquet")[0]).name, rows) for place, rows, _ in loader.set_aside] == [
        ("3", None), ("1", 200)
    ]  # fmt: skip
    assert re.search(r"1\.parquet row group 1 column 'number': cannot be decoded", loader.set_aside[1].reason)
    assert sorted(numbers_of(loader)) == [*range(1200), *range(1400, 3000)]
    assert len(loader) == 28


def test_what_is_damaged_later_keeps_its_place_with_weight_0(folder: Path) -> None:
    loader = mlclf.ParquetLoader(str(folder), labels="label_*", batch_rows=100, on_corrupt="skip")
    strict = mlclf.ParquetLoader(str(folder), labels="label_*", batch_rows=100)
    damage(folder / "1.parquet")
    batches = list(loader)
    assert len(batches) == len(loader) == 30
    weightless = [n for batch in batches for n in batch.rows[batch.weights == 0].tolist()]
    assert sorted(weightless) == list(range(1200, 1400))
    with pytest.raises(CorruptDataError, match=r"1\.parquet row group 1 column 'number': cannot be decoded"):
        list(strict)


def test_a_file_that_is_gone_is_not_damage(folder: Path) -> None:
    loader = mlclf.ParquetLoader(str(folder), labels="label_*", batch_rows=100, on_corrupt="skip")
    (folder / "1.parquet").unlink()
    with pytest.raises(DataError, match=r"1\.parquet: is gone, it was there before;"):
        list(loader)


def test_later_epochs_come_from_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = mlclf.ParquetLoader(str(folder), labels="label_*", batch_rows=100)
    cached = mlclf.ParquetLoader(str(folder), labels="label_*", batch_rows=100, cache=str(tmp_path / "cache"))
    read: list[bool] = []
    original = SlabCache.read
    monkeypatch.setattr(SlabCache, "read", lambda *given: read.append(original(*given)) or read[-1])
    for epoch in range(3):
        plain.set_epoch(epoch)
        cached.set_epoch(epoch)
        assert len(read) == 15 * max(0, epoch - 1)
        for one, other in zip(plain, cached, strict=True):
            assert torch.equal(one.dense, other.dense)
            assert torch.equal(one.ids, other.ids)
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.rows, other.rows)
    assert all(read)
    for path in (tmp_path / "cache").rglob("*.slab"):
        path.write_bytes(path.read_bytes()[:5000])
    assert numbers_of(cached) == numbers_of(plain)


def test_other_data_and_other_features_have_other_slabs(folder: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    for options in ({}, {"exclude": "kind"}, {"where": "number < 100"}):
        list(mlclf.ParquetLoader(str(folder), labels="label_*", cache=cache, **options))  # type: ignore[arg-type]
    pq.write_table(table_of(0, 900), folder / "0.parquet")
    list(mlclf.ParquetLoader(str(folder), labels="label_*", cache=cache))
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_as_a_dataloader(folder: Path) -> None:
    loader = mlclf.ParquetLoader(str(folder), labels="label_*", batch_rows=256)
    wrapped = loader.as_dataloader()
    assert isinstance(wrapped, DataLoader)
    assert isinstance(wrapped.dataset, IterableDataset)
    assert (wrapped.num_workers, wrapped.batch_size, len(wrapped)) == (0, None, 12)
    assert [batch.rows.tolist() for batch in wrapped] == [batch.rows.tolist() for batch in loader]
    batch = next(iter(wrapped))
    assert batch.to("cpu", non_blocking=True) is batch


def test_bad_arguments(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^batch_rows must be 1 or more, got 0$"):
        mlclf.ParquetLoader(str(folder), labels="label_*", batch_rows=0)
    with pytest.raises(ConfigError, match=r"^on_corrupt must be 'error' or 'skip', got 'drop'$"):
        mlclf.ParquetLoader(str(folder), labels="label_*", on_corrupt="drop")
    with pytest.raises(ConfigError, match=r"^runtime\.memory_budget of 1,000 bytes is too small"):
        mlclf.ParquetLoader(str(folder), labels="label_*", memory_budget=1000)
    with pytest.raises(DataError, match="no such file"):
        mlclf.ParquetLoader("nowhere.parquet", labels="label_*")


def test_a_newer_iteration_ends_the_one_under_way(folder: Path) -> None:
    loader = mlclf.ParquetLoader(str(folder), labels="label_*", batch_rows=100)
    older, newer = iter(loader), iter(loader)
    next(older)
    first = next(newer)
    message = r"^a newer iteration of this loader has ended this one; make a loader for each of them$"
    with pytest.raises(ConfigError, match=message):
        next(older)
    rows = [first.rows.tolist(), *(batch.rows.tolist() for batch in newer)]
    assert sorted(row for batch in rows for row in batch) == list(range(3000))
