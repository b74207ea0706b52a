"""Which rows a fit uses: a condition, damaged row groups, and the cache that gives them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_tables import document, lines_of, names_below, plain_table, write
from numpy.typing import NDArray

import mlclf
from mlclf.data.streaming.slab_cache import SlabCache
from mlclf.errors import ConfigError, CorruptDataError

STEPS: dict[str, Any] = {"training.epochs": 3, "optimizer.name": "adam", "optimizer.l2": 0.001}
SAME_FILES = ("model.safetensors", "thresholds.json", "features.json")


def where_of(table: pa.Table) -> NDArray[np.bool_]:
    return np.asarray(table["a"]) > -0.5


@pytest.mark.slow
@pytest.mark.parametrize("way", [{}, {"valid_fraction": 0.3, "group": "id"}])
@pytest.mark.parametrize("settings", [{}, STEPS])
def test_a_condition_is_the_same_as_data_without_the_other_rows(
    tmp_path: Path, way: dict[str, Any], settings: dict[str, Any]
) -> None:
    """With folds, or a split by group: rows keep their numbers, by which they are split otherwise."""
    table = plain_table(600)
    whole = write(tmp_path / "whole.parquet", table, row_group_size=100)
    kept = write(tmp_path / "kept.parquet", table.filter(pa.array(where_of(table))), row_group_size=100)
    condition = {"data.where": "a > -0.5 AND city IN ('rome', 'oslo', 'lima')"}
    one = mlclf.fit(whole, "label_*", tmp_path / "one", exclude="id", settings=settings | condition, **way)
    two = mlclf.fit(kept, "label_*", tmp_path / "two", exclude="id", settings=settings, **way)
    metrics = [document(run.path / "metrics.json") for run in (one, two)]
    assert metrics[0]["rows"] == metrics[1]["rows"]
    if not way:
        assert metrics[0]["rows"] == int(where_of(table).sum())
    assert (one.path / "features.json").read_bytes() == (two.path / "features.json").read_bytes()


@pytest.mark.slow
def test_a_condition_holds_for_validation_data_too(tmp_path: Path) -> None:
    train, valid = (write(tmp_path / f"{seed}.parquet", plain_table(300, seed)) for seed in (0, 1))
    run = mlclf.fit(train, "label_*", tmp_path / "run", exclude="id", valid=valid, settings={"data.where": "a > -0.5"})
    expected = int(where_of(plain_table(300, 1)).sum())
    assert document(run.path / "metrics.json")["rows"] == expected


def test_a_condition_on_no_column_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "data.parquet", plain_table(100))
    with pytest.raises(ConfigError, match=r"'aa'.*'a'"):
        mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", settings={"data.where": "aa > 0"})
    with pytest.raises(ConfigError, match=r"^data\.where: expected a value after '>'"):
        mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", settings={"data.where": "a >"})
    assert not (tmp_path / "run").exists()


def damage(path: Path, group: int) -> None:
    chunk = pq.ParquetFile(path).metadata.row_group(group).column(1)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, STEPS])
def test_damaged_row_groups_are_left_out_and_listed(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlclf.data.parquet.planning.UNIT_ROWS", 100)
    path = tmp_path / "data" / "a.parquet"
    write(path, plain_table(600), row_group_size=100, write_page_checksum=True, use_dictionary=False)
    damage(path, 2)
    (tmp_path / "data" / "b.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(mlclf.DataError, match="truncated"):
        mlclf.fit(str(tmp_path / "data"), "label_*", tmp_path / "run", exclude="id")
    with pytest.raises(CorruptDataError, match="row group 2 column 'a': cannot be decoded"):
        mlclf.fit(str(path), "label_*", tmp_path / "run", exclude="id")
    options = settings | {"data.on_corrupt": "skip"}
    run = mlclf.fit(str(tmp_path / "data"), "label_*", tmp_path / "run", exclude="id", settings=options)
    aside = document(run.path / "set_aside.json")["set_aside"]
    assert [(Path(unit["place"].split(" row")[0]).name, unit["rows"]) for unit in aside] == [
        ("b.parquet", None), ("a.parquet", 100)
    ]  # fmt: skip
    assert document(run.path / "metrics.json")["rows"] == 500


@pytest.mark.slow
def test_the_cache_changes_nothing_but_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "data.parquet", plain_table(2000), row_group_size=500)
    read: list[bool] = []
    original = SlabCache.read
    monkeypatch.setattr(SlabCache, "read", lambda *given: read.append(original(*given)) or read[-1])
    runs = {}
    for cache in ("off", "auto", str(tmp_path / "kept")):
        out = tmp_path / f"run {len(runs)}"
        settings = STEPS | {"runtime.cache": cache}
        runs[cache] = mlclf.fit(data, "label_*", out, exclude="id", settings=settings, valid_fraction=0.3)
        assert bool(read) == (cache != "off")
        assert "cache" not in names_below(out)
    for name in SAME_FILES:
        assert len({(run.path / name).read_bytes() for run in runs.values()}) == 1
    assert list((tmp_path / "kept").rglob("*.slab"))
    assert all(read)


class Killed(BaseException):
    """What a signal raises in the loop."""


@pytest.mark.slow
def test_a_fit_goes_on_inside_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "data.parquet", plain_table(2000), row_group_size=500)
    settings = STEPS | {"training.batch_rows": 4}
    whole = mlclf.fit(data, "label_*", tmp_path / "whole", exclude="id", settings=settings, valid_fraction=0.3)
    monkeypatch.setattr("mlclf.fitting.mini_batch.CHECKPOINT_SECONDS", 0.0)
    saves = 0
    from mlclf.fitting import mini_batch

    original = mini_batch.save_checkpoint

    def counted(*given: Any) -> None:
        nonlocal saves
        original(*given)
        saves += 1
        if saves == 10:
            raise Killed

    monkeypatch.setattr(mini_batch, "save_checkpoint", counted)
    with pytest.raises(Killed):
        mlclf.fit(data, "label_*", tmp_path / "stopped", exclude="id", settings=settings, valid_fraction=0.3)
    monkeypatch.setattr(mini_batch, "save_checkpoint", original)
    before = lines_of(tmp_path / "stopped" / "steps.jsonl")
    resumed = mlclf.fit(data, "label_*", tmp_path / "stopped", resume=True)
    assert lines_of(resumed.path / "steps.jsonl")[: len(before)] == before
    assert lines_of(resumed.path / "steps.jsonl") == lines_of(whole.path / "steps.jsonl")
    for name in SAME_FILES:
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    logs = [lines_of(run.path / "log.jsonl") for run in (whole, resumed)]
    for line in logs[0] + logs[1]:
        del line["seconds"]
    assert logs[0] == logs[1]
