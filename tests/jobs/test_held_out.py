"""What is held out in a fit, and what is said where that is too little to choose or to decide by."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from made_tables import document, plain_table, write

import mlclf
from mlclf.config.loading import load_run_file
from mlclf.jobs.fit import fit_steps

CHOOSES_NOTHING = re.compile(
    r"the [\d,]+ held-out rows that would choose l2 and the stopping point have both classes of no label, so "
    r"they choose nothing: optimizer\.l2 is as set, or 1 ÷ Σ weights; hold out more rows \(--valid-fraction\), "
    r"or use --folds"
)
DECIDES_NOTHING = (
    "no row is held out for calibrator and thresholds, which are 0.5 with status 'fallback'; "
    "hold out more rows (--valid-fraction), or use --folds"
)


def notes_of(data: str, out: Path, **arguments: object) -> list[str]:
    """What a fit says."""
    given = {"train": data, "labels": "label_*", "exclude": "id", "out": out} | arguments
    sets = [f"{name}={value}" for name, value in given.items()]
    return [progress.note for progress in fit_steps(load_run_file(None, sets)) if progress.note]


def test_a_choosing_part_without_rows_is_no_choice(tmp_path: Path) -> None:
    """A fraction that holds out next to nothing gives the model that no held-out rows give, and says so."""
    data = write(tmp_path / "a.parquet", plain_table())
    notes = notes_of(data, tmp_path / "tiny", valid_fraction=1e-9)
    assert [note for note in notes if CHOOSES_NOTHING.fullmatch(note)]
    assert DECIDES_NOTHING in notes
    mlclf.fit(data, "label_*", tmp_path / "none", exclude="id", valid_fraction=0)
    for name in ("model.safetensors", "thresholds.json"):
        assert (tmp_path / "tiny" / name).read_bytes() == (tmp_path / "none" / name).read_bytes()
    assert not (tmp_path / "tiny" / "metrics.json").exists()


def test_a_choosing_part_of_one_class_is_no_choice(tmp_path: Path) -> None:
    """Three positives of 400, all of them trained on: any amount of l2 would seem best on the rest."""
    table = plain_table()
    flags = np.zeros(400, np.int8)
    flags[:3] = 1
    table = table.drop_columns(["label_a", "label_b"]).append_column("label_c", pa.array(flags))
    data = write(tmp_path / "a.parquet", table)
    notes = notes_of(data, tmp_path / "run", valid_fraction=0.02)
    assert [note for note in notes if CHOOSES_NOTHING.fullmatch(note)]
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert len(lines) == 1  # one amount of l2, 1 ÷ Σ weights


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, {"folds": 3}, {"valid_fraction": 0.3}])
def test_enough_rows_need_no_words(tmp_path: Path, arguments: dict[str, object]) -> None:
    notes = notes_of(write(tmp_path / "a.parquet", plain_table()), tmp_path / "run", **arguments)
    assert not [note for note in notes if CHOOSES_NOTHING.fullmatch(note) or note == DECIDES_NOTHING]
    assert document(tmp_path / "run" / "metrics.json")["rows"] > 20


@pytest.mark.slow
def test_pooled_scores_of_folds_rank_as_new_rows_are_ranked(tmp_path: Path) -> None:
    """60 labels of which nothing can be learnt: pooled as the models give them, scores ranked rows at 0.33."""
    rng = np.random.default_rng(1)
    columns = {f"x{index}": rng.normal(size=300) for index in range(5)}
    columns |= {f"label_{index:02d}": rng.random(300) < 0.05 for index in range(60)}
    run = mlclf.fit(write(tmp_path / "a.parquet", pa.table(columns)), "label_*", tmp_path / "run")
    assert run.metrics is not None
    # 60 AUROC of 15 positives each have a deviation of 0.08 and are hardly correlated: four standard errors.
    assert run.metrics["macro"]["auroc"] == pytest.approx(0.5, abs=0.04)


@pytest.mark.slow
def test_decisions_on_held_out_rows_are_by_thresholds_of_others(tmp_path: Path) -> None:
    """60 labels of which little can be learnt: the best cuts of these rows seem to find some, those of others fewer."""
    rng = np.random.default_rng(2)

    def written(name: str, rows: int) -> str:
        x = rng.normal(size=(rows, 3))
        chance = 1 / (1 + np.exp(3 - 0.7 * x))
        columns = {f"x{index}": x[:, index] for index in range(3)}
        columns |= {f"label_{index:02d}": rng.random(rows) < chance[:, index % 3] for index in range(60)}
        return write(tmp_path / name, pa.table(columns))

    settings = {"thresholds.method": "plain", "optimizer.l2": 0.01}
    run = mlclf.fit(written("a.parquet", 400), "label_*", tmp_path / "run", settings=settings)
    assert run.metrics is not None
    assert run.metrics["decisions"] == "nested"
    on_new = run.evaluate(written("new.parquet", 20_000))["macro_all"]["f1"]
    tuned = document(tmp_path / "run" / "thresholds.json")["labels"]
    on_these = float(np.mean([entry["f1"] or 0.0 for entry in tuned.values()]))
    assert on_these > on_new + 0.05
    assert run.metrics["macro_all"]["f1"] == pytest.approx(on_new, abs=0.025)
    assert run.metrics["labels"]["label_00"]["threshold"] == tuned["label_00"]["threshold"]


@pytest.mark.slow
def test_the_labels_of_most_score_are_not_tuned(tmp_path: Path) -> None:
    settings = {"thresholds.objective": "top_k:1"}
    data = write(tmp_path / "a.parquet", plain_table())
    run = mlclf.fit(data, "label_*", tmp_path / "run", exclude="id", settings=settings)
    assert run.metrics is not None
    assert "decisions" not in run.metrics
