"""Score files read a block of labels at a time: the same counts as row by row, and the same errors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_scores import lists

from mlclf.data.parquet.planning import make_plan
from mlclf.decisions.cells.cells import Cells
from mlclf.decisions.histograms.tables import table_of
from mlclf.decisions.objectives.table import parse_objective
from mlclf.decisions.score_files import label_blocks as blocks
from mlclf.decisions.score_files.label_blocks import in_label_blocks, label_blocks
from mlclf.decisions.score_files.pairing import open_score_files
from mlclf.decisions.score_files.reading import ScoreFiles
from mlclf.decisions.tuning.tuner import Tuner
from mlclf.errors import DataError

NUM_LABELS, FILES, ROWS, GROUP_ROWS = 7, 2, 330, 50


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BLOCK_LABELS", 3), ("LEAST_LABELS", NUM_LABELS), ("STRETCH_ROWS", 120)):
        monkeypatch.setattr(blocks, name, value)
    monkeypatch.setattr("mlclf.data.parquet.planning.UNIT_ROWS", GROUP_ROWS)


def columns(seed: int, kind: str, hidden: float) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    logits = (3 * random.standard_normal((NUM_LABELS, ROWS)) - 1).astype(np.float32).round(2)
    truth = random.random((NUM_LABELS, ROWS)) < 1 / (1 + np.exp(-logits))
    scores = logits if kind == "logit" else 1 / (1 + np.exp(-logits))
    missing = random.random((NUM_LABELS, ROWS)) < hidden
    found: dict[str, Any] = {f"score_{index}": scores[index].astype(np.float32) for index in range(NUM_LABELS)}
    labels = {str(index): pa.array(truth[index], mask=missing[index]) for index in range(NUM_LABELS)}
    return found | labels | {"key": np.arange(ROWS) + seed * ROWS}


def written(folder: Path, kind: str = "logit", hidden: float = 0.0, change: dict[int, Any] | None = None) -> str:
    for number in range(FILES):
        table = pa.table(columns(number, kind, hidden) | (change or {}).get(number, {}))
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=GROUP_ROWS)
    return str(folder)


def opened(data: str, kind: str = "logit", **options: Any) -> ScoreFiles:
    return open_score_files(make_plan(data), ["score_*"], options.pop("labels", None), kind, **options)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("hidden", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_counts_are_those_of_rows(tmp_path: Path, kind: str, hidden: float, threads: int) -> None:
    files, before = opened(written(tmp_path, kind, hidden), kind), torch.get_num_threads()
    assert in_label_blocks(files)
    by_rows, by_blocks = (Tuner(parse_objective("f1"), NUM_LABELS, num_bins=1024) for _ in range(2))
    for rows in files.cells():
        by_rows.update(rows.cells)
    by_blocks.prepare()
    torch.set_num_threads(threads)
    try:
        done = list(label_blocks(files, by_blocks.update))
    finally:
        torch.set_num_threads(before)
    assert table_of(by_blocks.histogram).equals(table_of(by_rows.histogram), check_metadata=True)
    assert by_blocks.folds is not None
    assert by_rows.folds is not None
    assert by_blocks.folds.to_table().equals(by_rows.folds.to_table(), check_metadata=True)
    assert done[-1] == FILES * ROWS
    assert len(done) == FILES * 4  # stretches of 100, 100, 100 and 30 rows
    assert done == sorted(done)
    assert by_blocks.thresholds().thresholds.equal(by_rows.thresholds().thresholds)


def test_every_cell_comes_once_and_in_order(tmp_path: Path) -> None:
    files = opened(written(tmp_path))
    found: dict[int, list[torch.Tensor]] = {start: [] for start in range(0, NUM_LABELS, 3)}

    def take(cells: Cells, part: slice) -> None:
        assert cells.logits.shape[1] == part.stop - part.start
        assert len(cells) <= 120
        found[part.start].append(cells.logits.clone())

    for _ in label_blocks(files, take):
        pass
    want = torch.cat([rows.cells.logits for rows in files.cells()])
    assert torch.cat([torch.cat(parts) for parts in found.values()], 1).equal(want)


@pytest.mark.parametrize("slow", [None, 0, 3, 6])
@pytest.mark.parametrize("number", [0, 1])
def test_the_first_error_is_raised_whichever_thread_is_slow(tmp_path: Path, number: int, slow: int | None) -> None:
    def broken(label: int, row: int) -> dict[str, Any]:
        values = columns(number, "logit", 0.0)[f"score_{label}"].copy()
        values[row] = np.nan
        return {f"score_{label}": values}

    data = written(tmp_path, change={number: broken(6, 60) | broken(0, 210)})
    want = rf"{number}\.parquet row group 1 column 'score_6': scores must be numbers, found 1 null or NaN"
    calls: list[int] = []

    def take(cells: Cells, part: slice) -> None:
        if part.start == slow and slow not in calls:
            calls.append(part.start)
            time.sleep(0.2)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(DataError, match=want):
            list(label_blocks(opened(data), take))
    finally:
        torch.set_num_threads(before)


def test_what_is_done_may_fail_or_stop_early(tmp_path: Path) -> None:
    def refuse(cells: Cells, part: slice) -> None:
        raise DataError(f"labels from {part.start}")

    files = opened(written(tmp_path))
    with pytest.raises(DataError, match="labels from 0"):
        list(label_blocks(files, refuse))
    steps = label_blocks(files, lambda cells, part: None)
    assert next(steps) == 100
    steps.close()


def test_other_layouts_are_read_by_rows(tmp_path: Path) -> None:
    more = {"weight": np.full(ROWS, 2.0), "all": lists(np.zeros((ROWS, NUM_LABELS)), pa.float32())}
    data = written(tmp_path, change=dict.fromkeys(range(FILES), more))
    assert in_label_blocks(opened(data))
    assert not in_label_blocks(opened(data, weight="weight"))
    assert not in_label_blocks(opened(data, group="key"))
    assert not in_label_blocks(opened(data, key="key"))
    names = [str(index) for index in range(NUM_LABELS)]
    assert not in_label_blocks(opened(data, labels=["all"], label_names=names))
