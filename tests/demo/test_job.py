"""The demo: data from a known model, and a fit that comes near the best possible."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from mlclf.data.features.encoder import FeatureEncoder
from mlclf.data.features.fitted_column import EncodingOptions
from mlclf.data.parquet.planning import make_plan
from mlclf.data.schema.finding import find_schema
from mlclf.data.streaming.pool import Pool
from mlclf.data.streaming.row_encoder import RowEncoder
from mlclf.demo import job, made_data
from mlclf.errors import ConfigError
from mlclf.progress import drain


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> job.DemoResult:
    return drain(job.demo_steps(tmp_path_factory.mktemp("demo"), seed=1, rows=4_000))


def test_the_data_has_several_shards_row_groups_and_column_types(tmp_path: Path) -> None:
    truth = made_data.write_demo_data(tmp_path, rows=2_000)
    shards = sorted(truth.train.glob("*.parquet"))
    assert len(shards) == made_data.TRAIN_SHARDS
    assert len(list(truth.test.glob("*.parquet"))) == made_data.TEST_SHARDS
    assert all(pq.ParquetFile(path).num_row_groups == made_data.GROUPS_PER_SHARD for path in shards)
    table = pq.read_table(truth.train)
    assert table.num_rows == 2_000
    types = {str(column.type) for column in table.schema}
    assert {"float", "double", "int32", "int8", "bool", "date32[day]", "timestamp[us]", "string"} <= types
    assert pa.types.is_dictionary(table.schema.field("plan").type)
    assert pa.types.is_list(table.schema.field("words").type)
    for name in ("age", "income", "city", "plan", "words", made_data.UNOBSERVED_LABEL):
        assert table.column(name).null_count > 0
    assert len(set(table.column("customer").to_pylist())) == 2_000


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = made_data.write_demo_data(tmp_path / "a", seed=3, rows=500)
    second = made_data.write_demo_data(tmp_path / "b", seed=3, rows=500)
    other = made_data.write_demo_data(tmp_path / "c", seed=4, rows=500)
    assert first.best_auroc == pytest.approx(second.best_auroc, nan_ok=True)
    assert pq.read_table(first.train).equals(pq.read_table(second.train))
    assert not pq.read_table(first.train).equals(pq.read_table(other.train))


def test_labels_have_their_prevalences(tmp_path: Path) -> None:
    truth = made_data.write_demo_data(tmp_path, rows=20_000)
    table = pq.read_table(truth.train)
    for name, expected in made_data.PREVALENCES.items():
        labels = table.column(name).drop_null().to_numpy()
        # Five standard errors of the sample, and as many of the 40,000 rows that the bias was found on.
        tolerance = 5 * np.sqrt(expected * (1 - expected)) * (1 / np.sqrt(len(labels)) + 1 / np.sqrt(40_000))
        assert labels.mean() == pytest.approx(expected, abs=tolerance), name


def test_the_log_odds_are_linear_in_the_inputs_as_they_are_encoded(tmp_path: Path) -> None:
    model = made_data._TrueModel.drawn(5)
    rows = made_data._Rows.drawn(np.random.default_rng(5), 6_000)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(rows.columns() | {"label": pa.array(np.arange(6_000) % 2)}), path)
    schema = find_schema(make_plan(str(path)), ["label"])
    features = FeatureEncoder.fresh(schema.features, EncodingOptions(True, 10_000, 10_000, 16))
    table = pq.read_table(path)
    features.fit(table, "rows", None)
    features.finish()
    encoder = RowEncoder(schema, features, None, 1)
    slab = Pool(1, 6_000, encoder.layout).acquire()
    assert slab is not None
    encoder.encode(np.arange(6_000), table, "rows", slab)
    tokens = np.zeros((6_000, features.vocabulary_size))
    assert slab.offsets is not None
    np.add.at(tokens, (np.repeat(np.arange(6_000), np.diff(slab.offsets)), slab.ids), 1.0)
    inputs = np.concatenate([slab.arrays["dense"], tokens, np.ones((6_000, 1))], axis=1)
    truth = model.logits(rows)
    # Normal equations with a speck of ridge: the one-hot columns are collinear with the bias.
    weights = np.linalg.solve(inputs.T @ inputs + 1e-6 * np.eye(inputs.shape[1]), inputs.T @ truth)
    # The inputs are float32, so log-odds of about 5 come back to some 1e-6.
    np.testing.assert_allclose(inputs @ weights, truth, atol=1e-4)


def test_the_truth_is_the_auroc_of_the_true_log_odds_on_the_test_rows(tmp_path: Path) -> None:
    truth = made_data.write_demo_data(tmp_path, seed=2, rows=3_000)
    labels = pq.read_table(truth.test).column("label_buys").to_numpy()
    model = made_data._TrueModel.drawn(2)
    sizes = [pq.ParquetFile(path).metadata.num_rows for path in sorted(truth.test.glob("*.parquet"))]
    logits = [
        model.logits(made_data._Rows.drawn(np.random.default_rng([2, 1 + made_data.TRAIN_SHARDS + shard]), size))
        for shard, size in enumerate(sizes)
    ]
    expected = roc_auc_score(labels, np.concatenate(logits)[:, 0])
    assert truth.best_auroc["label_buys"] == pytest.approx(expected, abs=1e-12)
    assert truth.positives["label_buys"] == labels.sum()


@pytest.mark.slow
def test_the_fit_comes_near_the_best_possible(result: job.DemoResult) -> None:
    ours = result.metrics["labels"]["label_buys"]["auroc"]
    best = result.truth.best_auroc["label_buys"]
    # 4,000 rows teach 1,400 positives of this label; thousands of city and word effects cost a few hundredths.
    assert best - 0.06 < ours < best + 0.01
    assert result.metrics["rows"] == 2_000


@pytest.mark.slow
def test_the_demo_leaves_what_it_says(result: job.DemoResult) -> None:
    assert (result.run / "manifest.json").is_file()
    assert result.metrics_file.is_file()
    assert (result.scores / "_SUCCESS").is_file()
    scores = pq.read_table(result.scores / "part-000.parquet")
    assert {"customer", "score_label_fraud", "decision_label_fraud"} <= set(scores.column_names)
    lines = "\n".join(job.next_steps(result))
    for path in (result.run, result.metrics_file, result.scores):
        assert str(path) in lines
    assert "mlclf inspect" in lines


def test_the_table_has_a_row_for_each_label(result: job.DemoResult) -> None:
    head, *rows = job.demo_table(result)
    assert head == ("label", "test positives", "AUROC", "best possible", "difference")
    assert [row[0] for row in rows] == list(made_data.PREVALENCES)
    assert re.fullmatch(r"0\.\d{4}", rows[0][2])
    assert re.fullmatch(r"[+-]0\.\d{4}", rows[0][4])


def test_an_undefined_label_is_said_to_be_undefined(result: job.DemoResult) -> None:
    best = result.truth.best_auroc | {"label_fraud": float("nan")}
    truth = made_data.DemoTruth(
        result.truth.train, result.truth.test, result.truth.labels, result.truth.positives, best
    )
    changed = job.DemoResult(truth, result.run, result.metrics_file, result.scores, result.metrics)
    assert job.demo_table(changed)[-1][2:] == ("undefined", "undefined", "")


@pytest.mark.slow
def test_a_second_demo_replaces_the_first_and_nothing_else(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    message = f"'{foreign}' holds files that are not of a demo; give --out an empty folder"
    with pytest.raises(ConfigError, match=re.escape(message)):
        drain(job.demo_steps(foreign, rows=100))
    assert (foreign / "thesis.txt").read_text() == "mine"
    out = tmp_path / "out"
    first = drain(job.demo_steps(out, rows=200))
    (out / "notes.txt").write_text("kept")
    assert drain(job.demo_steps(out, rows=200)).metrics == first.metrics
    assert sorted(path.name for path in out.iterdir()) == [
        "data",
        job.MARK,
        "metrics.json",
        "notes.txt",
        "run",
        "scores",
    ]
    (out / "scores" / "mine.txt").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(ConfigError, match=re.escape("holds 'mine.txt', which is not on the list")):
        drain(job.demo_steps(out, rows=200))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.parent.name != "out"} == {
        path: time for path, time in before.items() if path.parent.name != "out"
    }
