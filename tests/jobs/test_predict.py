"""`predict`: parts mirror the input, keys are carried exactly, decisions follow the thresholds, the mark comes last."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_tables import document, names_below, plain_table, with_column, write

import mlclf
from mlclf import Run
from mlclf.errors import ConfigError, DataError


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


@pytest.fixture
def run(fitted: Any) -> Run:
    return Run.open(fitted.run)


def test_scores_carry_keys_and_decisions(fitted: Any, run: Run, tmp_path: Path) -> None:
    run.predict(fitted.test, tmp_path / "scores")
    scores = pq.read_table(tmp_path / "scores" / "b.parquet")
    assert scores.schema.names == ["id", "score_label_a", "score_label_b", "decision_label_a", "decision_label_b"]
    assert scores["id"].to_pylist() == [2**53 + 1 + index for index in range(300)]
    assert scores.schema.field("score_label_a").type == pa.float32()
    assert scores.schema.field("decision_label_a").type == pa.bool_()
    thresholds = document(fitted.run / "thresholds.json")["labels"]
    for name in run.label_names:
        score = scores[f"score_{name}"].to_numpy()
        assert ((score > 0) & (score < 1)).all()
        cut = np.float32(thresholds[name]["threshold"])
        assert (scores[f"decision_{name}"].to_numpy() == (score >= cut)).all()
        assert 0 < (score >= cut).sum() < 300
    assert scores.schema.metadata[b"mlclf_score_kind"] == b"probability"


def test_keys_with_nulls_stay_exact(fitted: Any, run: Run, tmp_path: Path) -> None:
    keys = pa.array([None if index == 3 else 2**53 + 1 + 2 * index for index in range(50)], pa.int64())
    data = write(tmp_path / "k.parquet", with_column(plain_table(50), "id", keys))
    run.predict(data, tmp_path / "scores")
    assert pq.read_table(tmp_path / "scores" / "k.parquet")["id"].to_pylist() == keys.to_pylist()


def test_parts_mirror_the_input_and_the_mark_is_there(run: Run, tmp_path: Path) -> None:
    table = plain_table(90)
    for index, name in enumerate(("p/one.parquet", "p/two.parquet", "q/one.parquet")):
        write(tmp_path / "in" / name, table.slice(30 * index, 30), row_group_size=7)
    run.predict(str(tmp_path / "in"), tmp_path / "out")
    assert names_below(tmp_path / "out") == {
        "_SUCCESS",
        "_written.jsonl",
        "p",
        "p/one.parquet",
        "p/two.parquet",
        "q",
        "q/one.parquet",
    }
    parts = [pq.read_table(tmp_path / "out" / name) for name in ("p/one.parquet", "p/two.parquet", "q/one.parquet")]
    assert pa.concat_tables(parts)["id"].to_pylist() == table["id"].to_pylist()


def test_files_of_one_name_do_not_overwrite_each_other(run: Run, tmp_path: Path) -> None:
    one = write(tmp_path / "x" / "a.parquet", plain_table(10))
    two = write(tmp_path / "y" / "a.parquet", plain_table(20))
    run.predict([one, two], tmp_path / "out")
    rows = sorted(pq.read_metadata(path).num_rows for path in (tmp_path / "out").rglob("*.parquet"))
    assert rows == [10, 20]


def test_an_empty_shard_gives_an_empty_part(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.parquet", plain_table(10))
    write(tmp_path / "in" / "b.parquet", plain_table(10).slice(0, 0))
    run.predict(str(tmp_path / "in"), tmp_path / "out")
    full, empty = (pq.read_table(tmp_path / "out" / name) for name in ("a.parquet", "b.parquet"))
    assert empty.num_rows == 0
    assert empty.schema.equals(full.schema)


def test_top_gives_falling_lists(fitted: Any, run: Run, tmp_path: Path) -> None:
    run.predict(fitted.test, tmp_path / "wide")
    run.predict(fitted.test, tmp_path / "top", top=1)
    wide, top = (pq.read_table(tmp_path / name / "b.parquet") for name in ("wide", "top"))
    assert top.schema.names == ["id", "top_labels", "top_scores", "decided_labels"]
    assert top.schema.field("top_labels").type == pa.list_(pa.string())
    assert top.schema.field("top_scores").type == pa.list_(pa.float32())
    best = np.stack([wide[f"score_{name}"].to_numpy() for name in run.label_names], 1)
    assert [row[0] for row in top["top_labels"].to_pylist()] == [run.label_names[i] for i in best.argmax(1)]
    assert [row[0] for row in top["top_scores"].to_pylist()] == best.max(1).tolist()
    decided = np.stack([wide[f"decision_{name}"].to_numpy(zero_copy_only=False) for name in run.label_names], 1)
    falling = (-best).argsort(axis=1, kind="stable")
    wanted = [[run.label_names[i] for i in order if row[i]] for order, row in zip(falling, decided, strict=True)]
    assert top["decided_labels"].to_pylist() == wanted
    assert {len(labels) for labels in wanted} == {0, 1, 2}


@pytest.mark.slow
def test_above_a_thousand_labels_the_best_hundred_are_listed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows, labels = 60, 1001
    truth = rng.random((rows, labels)) < 0.3
    columns = {"x": rng.normal(size=rows)} | {f"label_{index}": truth[:, index] for index in range(labels)}
    data = write(tmp_path / "a.parquet", pa.table(columns))
    run = mlclf.fit(data, "label_*", tmp_path / "run", valid_fraction=0)
    run.predict(data, tmp_path / "scores")
    table = pq.read_table(tmp_path / "scores" / "a.parquet")
    assert table.schema.names == ["top_labels", "top_scores", "decided_labels"]
    for scores in table["top_scores"].to_pylist():
        assert len(scores) == 100
        assert scores == sorted(scores, reverse=True)
    run.predict(data, tmp_path / "five", top=5)
    five = pq.read_table(tmp_path / "five" / "a.parquet")
    assert five["top_labels"].to_pylist() == [row[:5] for row in table["top_labels"].to_pylist()]


def test_labels_need_not_be_there(run: Run, tmp_path: Path) -> None:
    data = write(tmp_path / "a.parquet", plain_table(20).select(["a", "b", "c", "city"]))
    run.predict(data, tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "a.parquet").schema.names[0] == "score_label_a"


def test_a_non_empty_folder_is_refused_unless_told(fitted: Any, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    run.predict(fitted.test, out)
    message = f"{out}: the folder is not empty; give another --out, or --resume or --overwrite"
    with pytest.raises(ConfigError, match=exactly(message)):
        run.predict(fitted.test, out)
    before = (out / "b.parquet").stat().st_mtime_ns
    run.predict(fitted.test, out, resume=True)
    assert (out / "b.parquet").stat().st_mtime_ns == before
    run.predict(fitted.test, out, overwrite=True)
    assert (out / "b.parquet").stat().st_mtime_ns > before


def test_overwrite_removes_the_mark_and_the_parts_of_before(run: Run, tmp_path: Path) -> None:
    old, new = (write(tmp_path / name / f"{name}.parquet", plain_table(20)) for name in ("old", "new"))
    run.predict(old, tmp_path / "out")
    run.predict(new, tmp_path / "out", overwrite=True)
    assert names_below(tmp_path / "out") == {"_SUCCESS", "_written.jsonl", "new.parquet"}


def test_a_failing_prediction_leaves_no_mark(run: Run, tmp_path: Path) -> None:
    table = plain_table(20)
    write(tmp_path / "in" / "a.parquet", table)
    write(tmp_path / "in" / "b.parquet", with_column(table, "a", np.full(20, np.inf)))
    message = (
        f"{tmp_path}/in/b.parquet row group 0 column 'a': values must be finite, found 20 infinite; replace them by "
        "null (missing) or by a number where the data is written, or leave the column out of a fit with --exclude"
    )
    with pytest.raises(DataError, match=exactly(message)):
        run.predict(str(tmp_path / "in"), tmp_path / "out")
    assert names_below(tmp_path / "out") == {"_written.jsonl", "a.parquet"}


def test_a_missing_column_is_refused(run: Run, tmp_path: Path) -> None:
    data = write(tmp_path / "a.parquet", plain_table(20).drop_columns(["b"]))
    with pytest.raises(DataError, match=re.escape(f"{data}: column 'b' is missing\n")):
        run.predict(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_top_must_be_positive(fitted: Any, run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=exactly("--top must be 1 or more, got 0")):
        run.predict(fitted.test, tmp_path / "out", top=0)


def test_columns_that_training_did_not_have_are_noted(fitted: Any, tmp_path: Path, mlclf_command: Any) -> None:
    data = write(tmp_path / "a.parquet", with_column(plain_table(20), "brand_new", np.arange(20)))
    called = mlclf_command("predict", fitted.run, data, "--out", tmp_path / "out")
    assert called.code == 0
    assert "columns were not there in training and are not used: ['brand_new']" in called.err


@pytest.mark.slow
def test_columns_that_fit_left_out_are_not_called_new(tmp_path: Path, mlclf_command: Any) -> None:
    data = write(tmp_path / "a.parquet", plain_table(60))
    mlclf.fit(data, "label_*", tmp_path / "run", exclude=["id", "city"])
    called = mlclf_command("predict", tmp_path / "run", data, "--out", tmp_path / "out")
    assert called.code == 0
    assert "not there in training" not in called.err


def test_unseen_levels_and_filled_values_are_counted(fitted: Any, tmp_path: Path, mlclf_command: Any) -> None:
    table = with_column(plain_table(20), "city", ["atlantis"] * 12 + ["rome"] * 8)
    table = with_column(table, "a", pa.array([None] * 3 + [1.0] * 17))
    called = mlclf_command("predict", fitted.run, write(tmp_path / "a.parquet", table), "--out", tmp_path / "out")
    assert called.code == 0
    assert re.search(r"column 'city': 12 .*", called.err)
    assert "column 'a': 3 missing values took the training mean (none was missing in training)" in called.err


def test_predictions_agree_with_the_weights_in_the_run(fitted: Any, run: Run, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    run.predict(fitted.test, tmp_path / "scores")
    tensors = load_file(fitted.run / "model.safetensors")
    train, test = pq.read_table(fitted.data), pq.read_table(fitted.test)
    inputs = []
    for name in "abc":
        known = train[name].to_numpy()
        inputs.append((test[name].to_numpy() - known.mean()) / known.std())
    vocabulary = document(fitted.run / "features.json")["vocabulary"]
    rows = [vocabulary.index(f"city={value}") for value in test["city"].to_pylist()]
    logits = np.stack(inputs, 1) @ tensors["linear.weight"].T + tensors["linear.bias"]
    logits = logits + tensors["embedding.weight"][rows]
    if "calibration.low" in tensors:
        pytest.skip("the run has bounds")
    scores = pq.read_table(tmp_path / "scores" / "b.parquet")
    np.testing.assert_allclose(scores["score_label_a"].to_numpy(), 1 / (1 + np.exp(-logits[:, 0])), atol=1e-6)


def test_a_copied_run_works_elsewhere(fitted: Any, tmp_path: Path) -> None:
    shutil.copytree(fitted.run, tmp_path / "moved")
    report = Run.open(tmp_path / "moved").evaluate(fitted.test)
    assert report == Run.open(fitted.run).evaluate(fitted.test)
