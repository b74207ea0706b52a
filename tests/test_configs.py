"""Every configuration loads, says how it is run, and runs on a little data of the form that its head describes."""

from __future__ import annotations

import runpy
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mlclf
from mlclf.config.loading import load_run_file

TOP = Path(__file__).parents[1]
CONFIGS = sorted((TOP / "configs").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_configuration_loads_and_says_how_it_is_run(config: Path) -> None:
    head, _, body = config.read_text().partition("format_version")
    assert load_run_file(config).arguments.labels
    for what in ("Data:", "Run:", "Time:", "Expect:"):
        assert head.count(f"# {what}") == 1
    assert "#" not in body
    words = run_command(config)
    assert words[0] == "python"
    parse = runpy.run_path(str(TOP / words[1]))["parse_arguments"]
    assert (TOP / parse(words[2:]).config) == config


def run_command(config: Path) -> list[str]:
    """The words of the command that the head of a configuration says."""
    after = config.read_text().partition("# Run:")[2]
    return shlex.split(after.partition("# Time:")[0].replace("\\\n#", " ").strip(" #\n"))


def run_config(name: str, folder: Path, *options: str | Path) -> dict[str, Any]:
    """Run a configuration as its head says, with other data; returns the metrics."""
    command = run_command(TOP / "configs" / f"{name}.yaml")
    given = {str(option) for option in options if str(option).startswith("--")}
    kept: list[str] = []
    for word in command[2:]:
        if word.startswith("--"):
            option = word
        if option not in {*given, "--out"}:
            kept.append(word)
    metrics = runpy.run_path(str(TOP / command[1]))["main"]([*kept, *map(str, options), "--out", str(folder / "out")])
    assert (folder / "out" / "metrics.json").is_file()
    found: dict[str, Any] = metrics
    return found


def labels_of(random: np.random.Generator, signal: np.ndarray) -> np.ndarray:
    return random.random(len(signal)) < 1 / (1 + np.exp(-2 * signal))


@pytest.mark.slow
def test_adult(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, rows in (("train", 800), ("test", 300)):
        age, work = random.normal(40, 12, rows).round(), random.choice(["Private", "State-gov", ""], rows)
        label = labels_of(random, (age - 40) / 6)
        lines = [f"{a:.0f},{w},{int(y)}" for a, w, y in zip(age, work, label, strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["age,workclass,label_over_50k", *lines]) + "\n")
    metrics = run_config("adult", tmp_path, "--data", tmp_path / "train.csv", "--test", tmp_path / "test.csv")
    assert metrics["rows"] == 300
    assert metrics["macro"]["auroc"] > 0.8
    assert pq.read_table(tmp_path / "out" / "table")["workclass"].null_count > 0


@pytest.mark.slow
def test_telco_churn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    charges = random.standard_normal(1_500)
    churn = np.where(labels_of(random, charges), "Yes", "No")
    totals = ["" if row < 9 else f"{x:.3f}" for row, x in enumerate(charges)]
    customers = enumerate(zip(charges, totals, churn, strict=True))
    lines = [f"{row}-AB,{x:.3f},{total},{y}" for row, (x, total, y) in customers]
    (tmp_path / "churn.csv").write_text("\n".join(["customerID,MonthlyCharges,TotalCharges,Churn", *lines]) + "\n")
    metrics = run_config("telco_churn", tmp_path, "--data", tmp_path / "churn.csv")
    assert 200 < metrics["rows"] < 400
    assert metrics["macro"]["auroc"] > 0.8
    assert "Churn: threshold" in capsys.readouterr().out


@pytest.mark.slow
def test_nycflights13(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, rows in (("train", 800), ("test", 300)):
        clock = random.integers(5, 23, rows) * 100 + random.integers(0, 60, rows)
        table = {"month": np.full(rows, 1), "day": random.integers(1, 29, rows), "dep_time": clock + 5}
        table |= {"air_time": random.integers(60, 300, rows), "tailnum": [f"N{row}" for row in range(rows)]}
        table |= {"sched_dep_time": clock, "label_late30": labels_of(random, np.cos(clock / 300)).astype(np.int8)}
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    metrics = run_config(
        "nycflights13", tmp_path, "--data", tmp_path / "train.parquet", "--test", tmp_path / "test.parquet"
    )
    assert metrics["macro"]["auroc"] > 0.7  # with the clock as a number alone it is near 0.5
    run = mlclf.Run.open(tmp_path / "out" / "run")
    assert {column.name for column in run.schema.features} == {"day", "sched_dep_time", "sched_dep_time_hour"}


@pytest.mark.slow
def test_criteo(tmp_path: Path) -> None:
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
    metrics = run_config("criteo", tmp_path, "--data", tmp_path / "criteo")
    roles = {column.name: column.role for column in mlclf.Run.open(tmp_path / "out" / "run").schema.features}
    assert roles == {name: "numeric" if name[0] == "I" else "categorical" for name in names[1:]}
    assert metrics["macro"]["auroc"] > 0.9


def comments(rows: int, seed: int) -> list[tuple[str, list[int]]]:
    """Texts with the numbers of their emotions, of which each has a word."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(rows):
        emotions = sorted(set(random.integers(0, 4, 2).tolist()))
        made.append(
            (" ".join(f"feeling{emotion}" for emotion in emotions) + f' "filler{random.integers(40)}', emotions)
        )
    return made


@pytest.mark.slow
def test_goemotions_text(tmp_path: Path) -> None:
    for name, rows in (("train", 500), ("test", 200)):
        lines = [
            f"{text}\t{','.join(map(str, emotions))}\tid{row}"
            for row, (text, emotions) in enumerate(comments(rows, rows))
        ]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
        mlclf.convert(
            tmp_path / f"{name}.tsv",
            tmp_path / name,
            names=["text", "labels", "id"],
            types={"labels": "string"},
            quotes=False,
        )
    metrics = run_config("goemotions_text", tmp_path, "--data", tmp_path / "train", "--test", tmp_path / "test")
    assert sorted(metrics["labels"]) == ["0", "1", "2", "3"]
    assert metrics["macro"]["average_precision"] > 0.95


@pytest.mark.slow
def test_goemotions_tfidf(tmp_path: Path) -> None:
    for name, rows in (("train", 500), ("test", 200)):
        lines = []
        for text, emotions in comments(rows, rows):
            terms = sorted(
                int(word[7:]) + 1 if word.startswith("feeling") else int(word[7:]) + 5 for word in text.split()
            )
            lines.append(f"{','.join(map(str, emotions))} " + " ".join(f"{term}:0.5" for term in terms))
        (tmp_path / f"{name}.svm").write_text("\n".join(lines) + "\n")
        mlclf.convert(tmp_path / f"{name}.svm", tmp_path / name, multilabel=True)
    metrics = run_config("goemotions_tfidf", tmp_path, "--data", tmp_path / "train", "--test", tmp_path / "test")
    assert metrics["macro"]["average_precision"] > 0.95


def write_mulan(path: Path, rows: int, sparse: bool) -> None:
    """An ARFF file of 6 inputs and 3 labels, and the XML of its labels."""
    random = np.random.default_rng(rows)
    inputs = random.standard_normal((rows, 6)).round(3)
    inputs = (inputs > 0).astype(int) if sparse else inputs
    labels = np.stack([labels_of(random, 2 * inputs[:, index] - sparse) for index in range(3)], 1).astype(int)
    head = ["@relation made", *(f"@attribute Att{index} numeric" for index in range(6))]
    head += [*(f"@attribute TAG_{index} {{0,1}}" for index in range(3)), "@data"]
    lines = []
    for row in np.concatenate([inputs, labels], 1).tolist():
        cells = [f"{value:g}" for value in row]
        shown = [f"{index} {cell}" for index, cell in enumerate(cells) if cell != "0"]
        lines.append("{" + ",".join(shown) + "}" if sparse else ",".join(cells))
    path.write_text("\n".join([*head, *lines]) + "\n")
    names = "".join(f'<label name="TAG_{index}"></label>' for index in range(3))
    path.with_name("made.xml").write_text(f'<labels xmlns="http://mulan.sourceforge.net/labels">{names}</labels>')


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bibtex", "yeast"])
def test_data_of_mulan(tmp_path: Path, name: str) -> None:
    for part, rows in (("train", 900), ("test", 200)):
        write_mulan(tmp_path / f"{part}.arff", rows, name == "bibtex")
        mlclf.convert(tmp_path / f"{part}.arff", tmp_path / part, labels_xml=tmp_path / "made.xml")
    metrics = run_config(name, tmp_path, "--data", tmp_path / "train", "--test", tmp_path / "test")
    assert list(metrics["labels"]) == [f"label_TAG_{index}" for index in range(3)]
    assert metrics["macro"]["auroc"] > 0.7


def test_every_configuration_is_run_here() -> None:
    made = {"deliveries", "posts", "alerts"}  # of the pipelines' own data, above
    tested = {
        "adult",
        "telco_churn",
        "nycflights13",
        "criteo",
        "goemotions_text",
        "goemotions_tfidf",
        "bibtex",
        "yeast",
    }
    assert made | tested == {config.stem for config in CONFIGS}
