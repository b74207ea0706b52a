"""Every pipeline runs on its small data, fits a page, and its configuration loads."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from mlclf.config import load_run_file

TOP = Path(__file__).parents[1]
SCRIPTS = sorted((TOP / "pipelines").glob("*.py"))
CONFIGS = sorted((TOP / "configs").glob("*.yaml"))
PAGE_LINES = 150


@pytest.fixture(scope="module")
def tabular(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder that the pipeline wrote on made data, and its metrics."""
    out = tmp_path_factory.mktemp("tabular")
    main: Callable[..., dict[str, Any]] = runpy.run_path(str(TOP / "pipelines/tabular_binary.py"))["main"]
    return out, main(["--out", str(out)])


def test_there_are_pipelines_and_configurations() -> None:
    assert [script.name for script in SCRIPTS] == ["tabular_binary.py"]
    assert [config.name for config in CONFIGS] == ["adult.yaml"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_pipeline_is_a_page_on_the_public_library(script: Path) -> None:
    text = script.read_text()
    assert len(text.splitlines()) < PAGE_LINES
    steps = [text.index(f"── {step}") for step in ("raw source", "fit", "calibrate", "evaluate", "predict", "report")]
    assert steps == sorted(steps)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_configuration_loads_and_says_how_it_is_run(config: Path) -> None:
    load_run_file(config)
    head = config.read_text().partition("format_version")[0]
    for what in ("Data:", "Run:", "Time:", "Expect:"):
        assert f"# {what}" in head
    assert f"configs/{config.name}" in head


def test_tabular_binary_learns_its_made_data(tabular: tuple[Path, dict[str, Any]]) -> None:
    _, metrics = tabular
    assert metrics["rows"] == 3_000
    # The true log-odds order these rows with an AUROC of 0.857.
    assert metrics["macro"]["auroc"] > 0.84
    assert metrics["calibration"]["observed_expected"] == pytest.approx(1, abs=0.15)


def test_tabular_binary_splits_every_row_once(tabular: tuple[Path, dict[str, Any]]) -> None:
    out, _ = tabular
    rows = {part: pq.read_table(out / "shards" / part).num_rows for part in ("train", "calibration", "test")}
    assert rows == {"train": 5_000, "calibration": 1_000, "test": 3_000}
    whole = csv.read_csv(out / "raw" / "train.csv").column("capital_gain").to_pylist()
    kept = pq.read_table(out / "shards" / "calibration").column("capital_gain").to_pylist()
    assert kept == whole[::6]
    assert pq.read_table(out / "shards" / "train").column("workclass").null_count > 0


def test_tabular_binary_leaves_a_run_metrics_and_scores(tabular: tuple[Path, dict[str, Any]]) -> None:
    out, _ = tabular
    assert (out / "run" / "manifest.json").is_file()
    assert (out / "metrics.json").is_file()
    assert (out / "scores" / "_SUCCESS").is_file()
    scores = pq.read_table(out / "scores" / "part-00000.parquet")
    assert scores.num_rows == 3_000
    assert {"score_label_over_50k", "decision_label_over_50k"} <= set(scores.column_names)


def test_tabular_binary_makes_several_shards_of_a_large_file(tmp_path: Path) -> None:
    pipeline = runpy.run_path(str(TOP / "pipelines/tabular_binary.py"))
    raw = tmp_path / "many.csv"
    raw.write_text("x\n" + "".join(f"{row}\n" for row in range(5_000)))
    write_shards = pipeline["write_shards"]
    write_shards.__globals__.update(BLOCK_BYTES=2_000, SHARD_ROWS=1_000)
    write_shards(raw, {"rest": False, "sixth": True}, tmp_path / "shards")
    shards = sorted((tmp_path / "shards" / "rest").glob("*.parquet"))
    assert 3 <= len(shards) <= 5
    rest = [row for shard in shards for row in pq.read_table(shard).column("x").to_pylist()]
    sixth = pq.read_table(tmp_path / "shards" / "sixth").column("x").to_pylist()
    assert rest == [row for row in range(5_000) if row % 6]
    assert sorted(sixth) == list(range(0, 5_000, 6))
