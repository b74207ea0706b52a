"""Every pipeline runs on its small data, fits a page, and every configuration loads and says how it is run."""

from __future__ import annotations

import json
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mlclf
from mlclf.config import load_run_file

TOP = Path(__file__).parents[1]
SCRIPTS = sorted((TOP / "pipelines").glob("*.py"))
CONFIGS = sorted((TOP / "configs").glob("*.yaml"))
PAGE_LINES = 150
STEPS = ("raw source → shards", "fit", "calibrate", "evaluate", "predict", "report")


def pipeline(name: str) -> Callable[..., dict[str, Any]]:
    main: Callable[..., dict[str, Any]] = runpy.run_path(str(TOP / "pipelines" / f"{name}.py"))["main"]
    return main


def run_on_made_data(name: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder that a pipeline wrote on made data, and its metrics."""
    out = tmp_path_factory.mktemp(name)
    return out, pipeline(name)(["--out", str(out)])


@pytest.fixture(scope="module")
def tabular(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return run_on_made_data("tabular_binary", tmp_path_factory)


@pytest.fixture(scope="module")
def tagging(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return run_on_made_data("tagging", tmp_path_factory)


@pytest.fixture(scope="module")
def thresholds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return run_on_made_data("threshold_calibration", tmp_path_factory)


def test_there_are_pipelines_and_configurations() -> None:
    assert [script.stem for script in SCRIPTS] == ["tabular_binary", "tagging", "threshold_calibration"]
    assert [config.stem for config in CONFIGS] == [
        "adult", "alerts", "bibtex", "criteo", "deliveries", "goemotions_text", "goemotions_tfidf", "nycflights13",
        "posts", "telco_churn", "yeast",
    ]  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_pipeline_is_a_page_on_the_public_library(script: Path) -> None:
    text = script.read_text()
    assert len(text.splitlines()) < PAGE_LINES
    steps = [text.index(f"── {step}") for step in STEPS]
    assert steps == sorted(steps)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_configuration_loads_and_says_how_it_is_run(config: Path) -> None:
    head, _, body = config.read_text().partition("format_version")
    assert load_run_file(config).arguments.labels
    for what in ("Data:", "Run:", "Time:", "Expect:"):
        assert head.count(f"# {what}") == 1
    assert "#" not in body
    command = head.partition("# Run:")[2].partition("# Time:")[0].replace("\\\n#", " ").strip(" #\n")
    words = shlex.split(command)
    assert words[0] == "python"
    parse = runpy.run_path(str(TOP / words[1]))["parse_arguments"]
    assert (TOP / parse(words[2:]).config) == config


# ── tabular_binary ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_tabular_binary_learns_its_made_data(tabular: tuple[Path, dict[str, Any]]) -> None:
    out, metrics = tabular
    # The true log-odds order these rows with an AUROC of 0.711.
    assert metrics["macro"]["auroc"] > 0.70
    assert metrics["calibration"]["observed_expected"] == pytest.approx(1, abs=0.15)
    rows = {part: pq.read_table(out / "parts" / part) for part in ("train", "calibration", "test")}
    assert sum(table.num_rows for table in rows.values()) == 20_000
    assert metrics["rows"] == rows["test"].num_rows
    days = [(min(table["day"].to_pylist()), max(table["day"].to_pylist())) for table in rows.values()]
    assert days[0][1] < days[1][0] <= days[1][1] < days[2][0]
    assert rows["train"]["depot"].null_count > 0
    planned, hours = rows["test"]["planned"].to_pylist(), rows["test"]["planned_hour"].to_pylist()
    assert [str(clock // 100) for clock in planned] == hours


def test_tabular_binary_leaves_a_run_metrics_and_scores(tabular: tuple[Path, dict[str, Any]]) -> None:
    out, metrics = tabular
    assert mlclf.Run.open(out / "run").label_names == ("label_late",)
    assert json.loads((out / "metrics.json").read_text()) == metrics
    scores = mlclf.Run.open(out / "run").settings.thresholds.objective, pq.read_table(out / "scores")
    assert scores[0] == "cost:1,5"
    assert {"score_label_late", "decision_label_late"} <= set(scores[1].column_names)
    assert scores[1].num_rows == metrics["rows"]


def test_tabular_binary_takes_a_published_test_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    for name, rows in (("train", 600), ("test", 300)):
        x = random.standard_normal(rows)
        churn = np.where(random.random(rows) < 1 / (1 + np.exp(-2 * x)), "Yes", "No")
        table = pa.table({"customerID": [f"{name}{row}" for row in range(rows)], "x": x, "Churn": churn})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    arguments = ["--config", TOP / "configs" / "telco_churn.yaml", "--data", tmp_path / "train.parquet"]
    arguments += ["--test", tmp_path / "test.parquet", "--out", tmp_path / "out"]
    metrics = pipeline("tabular_binary")([str(argument) for argument in arguments])
    assert metrics["rows"] == 300
    assert metrics["macro"]["auroc"] > 0.8
    assert "Churn: threshold" in capsys.readouterr().out


def test_criteo_runs_on_a_made_file_of_its_form(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = []
    for _ in range(2_000):
        clicked = random.random() < 0.25
        counts = ["" if random.random() < 0.3 else str(random.poisson(3 + 2 * clicked)) for _ in range(13)]
        hashes = ["" if random.random() < 0.1 else f"{random.integers(50 + 20 * clicked):08x}" for _ in range(26)]
        lines.append("\t".join([str(int(clicked)), *counts, *hashes]))
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    names = ["label", *(f"I{index}" for index in range(1, 14)), *(f"C{index}" for index in range(1, 27))]
    converted = mlclf.convert(
        tmp_path / "train.txt", tmp_path / "criteo", format="tsv", names=names, quotes=False, types={"C*": "string"}
    )
    assert converted.rows == 2_000
    arguments = ["--config", TOP / "configs" / "criteo.yaml", "--data", tmp_path / "criteo", "--out", tmp_path / "out"]
    metrics = pipeline("tabular_binary")([str(argument) for argument in arguments])
    roles = {column.name: column.role for column in mlclf.Run.open(tmp_path / "out" / "run").schema.features}
    assert roles == {name: "numeric" if name[0] == "I" else "categorical" for name in names[1:]}
    assert metrics["macro"]["auroc"] > 0.9


# ── tagging ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tagging_learns_its_made_posts(tagging: tuple[Path, dict[str, Any]]) -> None:
    out, metrics = tagging
    assert len(metrics["labels"]) == 12
    assert metrics["macro"]["auroc"] > 0.85
    assert (
        metrics["macro"]["average_precision"]
        > 3 * np.mean([found["support"] for found in metrics["labels"].values()]) / metrics["rows"]
    )
    tags = pq.read_table(out / "parts" / "train")["tags"]
    assert tags.type == pa.list_(pa.string())
    assert [] in tags.to_pylist()


def test_tagging_names_the_best_tags_of_each_row(tagging: tuple[Path, dict[str, Any]]) -> None:
    out, metrics = tagging
    tagged = pq.read_table(out / "tagged").to_pylist()
    assert len(tagged) == metrics["rows"]
    assert all(len(row["top_labels"]) == 5 and row["top_scores"] == sorted(row["top_scores"])[::-1] for row in tagged)


def test_tagging_takes_sparse_rows_with_a_column_for_each_label(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, rows in (("train", 400), ("test", 200)):
        words = [sorted(set(random.integers(0, 30, 6).tolist())) for _ in range(rows)]
        table = {"indices": words, "values": [[1.0] * len(row) for row in words]}
        table |= {f"label_TAG_{tag}": [int(tag in row) for row in words] for tag in range(3)}
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(table), tmp_path / name / "part.parquet")
    arguments = ["--config", TOP / "configs" / "bibtex.yaml", "--data", tmp_path / "train", "--test", tmp_path / "test"]
    metrics = pipeline("tagging")([str(each) for each in [*arguments, "--out", tmp_path / "out"]])
    assert metrics["macro"]["auroc"] == pytest.approx(1)


# ── threshold_calibration ───────────────────────────────────────────────────────────────────────────────────────────


def test_threshold_calibration_decides_better_than_at_half(thresholds: tuple[Path, dict[str, Any]]) -> None:
    out, metrics = thresholds
    scores = str(out / "scores" / "test.parquet")
    half = mlclf.evaluate_scores(scores, score_kind="probability")
    assert metrics["macro_all"]["f1"] > half["macro_all"]["f1"]
    promised = json.loads((out / "precision.json").read_text())
    kept = mlclf.evaluate_scores(scores, out / "precision.json", score_kind="probability")
    attained = [name for name, tuned in promised["labels"].items() if tuned["status"] == "tuned"]
    assert len(attained) >= 4
    assert (
        sum(kept["labels"][name]["precision"] < 0.65 for name in attained) == 0
    )  # 0.7 but for chance in the test rows


def test_threshold_calibration_keeps_every_row_for_one_purpose(thresholds: tuple[Path, dict[str, Any]]) -> None:
    out, metrics = thresholds
    rows = {part.name: pq.read_table(part).num_rows for part in (out / "parts").iterdir() if part.is_dir()}
    assert set(rows) == {"model", "last_month", "this_month", "test"}
    assert sum(rows.values()) == 10_000
    assert rows["test"] == metrics["rows"] == pq.read_table(out / "decisions").num_rows
    assert pq.read_table(out / "decisions").column_names == [f"decision_label_alarm_{label}" for label in range(6)]
