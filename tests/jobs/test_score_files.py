"""Whole jobs on score files: calibrate, apply, evaluate and diff, and that they agree with those of a run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_scores import NAMES, lists, made_scores, probabilities, wide, written
from made_tables import document

import mlclf
from mlclf.errors import ConfigError, DataError
from mlclf.jobs.apply_thresholds import apply_thresholds, diff_thresholds
from mlclf.jobs.score_files import calibrate_scores, evaluate_scores

ROWS = 400


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


@pytest.fixture
def scored(tmp_path: Path) -> str:
    """Two files of probabilities with keys and labels, one without rows between them."""
    logits, labels = made_scores(ROWS)
    table = wide(probabilities(logits), labels, id=np.arange(ROWS))
    for index, part in enumerate((table.slice(0, 150), table.slice(0, 0), table.slice(150))):
        written(tmp_path / "scores" / f"{index}.parquet", part, row_group_size=64)
    return str(tmp_path / "scores")


def decisions_below(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.rglob("*.parquet"))])


def with_threshold(path: Path, cuts: dict[str, float | None]) -> Path:
    """A file of thresholds like another, but for some cuts."""
    import json

    value = document(path)
    for name, cut in cuts.items():
        value["labels"][name]["threshold"] = cut
    made = path.with_name("changed.json")
    made.write_text(json.dumps(value))
    return made


# ── apply ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_apply_mirrors_the_scores_and_decides_exactly(scored: str, tmp_path: Path) -> None:
    thresholds = calibrate_scores(scored, "f1", tmp_path / "t.json", score_kind="probability")
    assert thresholds["score_kind"] == "probability"
    out = apply_thresholds(scored, tmp_path / "t.json", tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == [
        "0.parquet",
        "1.parquet",
        "2.parquet",
        "_SUCCESS",
        "_written.jsonl",
    ]
    found, given = decisions_below(out), decisions_below(Path(scored))
    assert found.column_names == ["id", *(f"decision_{name}" for name in NAMES)]
    assert found["id"].equals(given["id"])
    for name in NAMES:
        cut = np.float32(thresholds["labels"][name]["threshold"])
        assert np.array_equal(found[f"decision_{name}"].to_numpy(), given[f"score_{name}"].to_numpy() >= cut)
        truth, decided = given[name].to_numpy() == 1, found[f"decision_{name}"].to_numpy()
        if thresholds["labels"][name]["status"] != "fallback":
            assert thresholds["labels"][name]["recall"] == pytest.approx(decided[truth].mean())
            assert thresholds["labels"][name]["precision"] == pytest.approx(truth[decided].mean())


def test_a_score_equal_to_the_threshold_is_positive_and_null_never_is(scored: str, tmp_path: Path) -> None:
    calibrate_scores(scored, "f1", tmp_path / "t.json", score_kind="probability")
    score = pq.read_table(f"{scored}/0.parquet")["score_a"].to_numpy()
    changed = with_threshold(tmp_path / "t.json", {"a": float(score[7]), "b": None, "c": 0.0})
    found = decisions_below(apply_thresholds(scored, changed, tmp_path / "out"))
    assert found["decision_a"][7].as_py()
    assert found["decision_a"].to_numpy()[:150].sum() == (score >= score[7]).sum()
    assert found["decision_b"].to_numpy().sum() == 0
    assert found["decision_c"].to_numpy().all()


def test_lists_are_decided_like_columns(scored: str, tmp_path: Path) -> None:
    calibrate_scores(scored, "f1", tmp_path / "t.json", score_kind="probability")
    table = decisions_below(Path(scored))
    values = np.stack([table[f"score_{name}"].to_numpy() for name in NAMES], 1)
    listed = pa.table({"id": table["id"], "s": lists(values, pa.float32()), "y": table["a"]})
    path = written(tmp_path / "l.parquet", listed, row_group_size=100)
    columns = decisions_below(apply_thresholds(scored, tmp_path / "t.json", tmp_path / "wide"))
    found = decisions_below(apply_thresholds(path, tmp_path / "t.json", tmp_path / "list", scores="s", key="id"))
    assert found.column_names == ["id", "decided_labels"]
    falling = [[NAMES[index] for index in order] for order in (-values).argsort(axis=1, kind="stable")]
    decided = columns.to_pylist()
    expected = [
        [name for name in order if row[f"decision_{name}"]] for order, row in zip(falling, decided, strict=True)
    ]
    assert found["decided_labels"].to_pylist() == expected
    options: dict[str, Any] = {"score_kind": "probability", "labels": list(NAMES)}
    with_labels = wide(values, id=table["id"]).append_column("s", listed["s"])
    for name in NAMES:
        with_labels = with_labels.append_column(name, table[name])
    path = written(tmp_path / "m.parquet", with_labels)
    one = calibrate_scores(path, "f1", tmp_path / "one.json", scores="s", **options)
    assert one == calibrate_scores(path, "f1", tmp_path / "two.json", **options)


def test_resume_keeps_parts_and_overwrite_replaces_them(scored: str, tmp_path: Path) -> None:
    calibrate_scores(scored, "f1", tmp_path / "t.json", score_kind="probability")
    out = apply_thresholds(scored, tmp_path / "t.json", tmp_path / "out")
    with pytest.raises(
        ConfigError, match=exactly(f"{out}: the folder is not empty; give another --out, or --resume or --overwrite")
    ):
        apply_thresholds(scored, tmp_path / "t.json", out)
    (out / "2.parquet").unlink()
    (out / "_SUCCESS").unlink()
    before = (out / "0.parquet").stat().st_mtime_ns
    apply_thresholds(scored, tmp_path / "t.json", out, resume=True)
    assert (out / "0.parquet").stat().st_mtime_ns == before
    assert (out / "_SUCCESS").exists()
    assert decisions_below(out).num_rows == ROWS
    changed = with_threshold(tmp_path / "t.json", {"a": None})
    apply_thresholds(scored, changed, out, overwrite=True)
    assert decisions_below(out)["decision_a"].to_numpy().sum() == 0


def test_apply_refuses_what_does_not_fit(scored: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    calibrate_scores(scored, "f1", path, score_kind="probability")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"scores": ["score_a", "score_b"]}, "thresholds must be of the labels that are scored, got unknown: 'c'"),
        (
            {"score_kind": "logit"},
            (
                f"{str(path)!r} holds thresholds of scores that are 'probability', these scores are 'logit'; calibrate "
                "on scores of one kind"
            ),
        ),
        ({"key": "idd"}, f"--key: column 'idd' is not in {scored}/0.parquet"),
    ]
    for options, message in cases:
        with pytest.raises(ConfigError, match=exactly(message)):
            apply_thresholds(scored, path, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()
    more = decisions_below(Path(scored)).append_column("score_d", pa.array(np.zeros(ROWS, np.float32)))
    with pytest.raises(
        ConfigError, match=exactly("thresholds must be of the labels that are scored, got missing: 'd'")
    ):
        apply_thresholds(written(tmp_path / "more.parquet", more), path, tmp_path / "out")
    bad = wide(np.float32([[0.5, 0.5, 2]]))
    message = (
        f"{tmp_path}/bad.parquet row group 0 column 'score_c': probabilities must be in [0, 1], found 2.0; if these "
        "are logits, say --score-kind logit"
    )
    with pytest.raises(DataError, match=exactly(message)):
        apply_thresholds(written(tmp_path / "bad.parquet", bad), path, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*"))


def test_thresholds_of_logits(tmp_path: Path) -> None:
    logits, labels = made_scores(ROWS)
    path = written(tmp_path / "s.parquet", wide(logits, labels))
    thresholds = calibrate_scores(path, "f1", tmp_path / "t.json", score_kind="logit")
    assert thresholds["score_kind"] == "logit"
    found = decisions_below(apply_thresholds(path, tmp_path / "t.json", tmp_path / "out"))
    report = evaluate_scores(path, tmp_path / "t.json", score_kind="logit")
    for index, name in enumerate(NAMES):
        cut = thresholds["labels"][name]["threshold"]
        decided, truth = logits[:, index] >= np.float32(cut), labels[:, index] == 1
        assert np.array_equal(found[f"decision_{name}"].to_numpy(), decided)
        assert report["labels"][name]["threshold"] == cut
        assert report["labels"][name]["recall"] == pytest.approx(decided[truth].mean())


# ── with a run ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_apply_on_the_scores_of_predict_decides_as_predict(fitted: Any, tmp_path: Path) -> None:
    shutil.copytree(fitted.run, tmp_path / "run")
    run = mlclf.Run.open(tmp_path / "run")
    for objective in ("f1", "recall:0.9"):
        run.calibrate(fitted.test, objective)
        scores = run.predict(fitted.test, tmp_path / objective / "scores")
        out = apply_thresholds(str(scores), run.path / "thresholds.json", tmp_path / objective / "out")
        predicted, applied = decisions_below(scores), decisions_below(out)
        assert applied.column_names == ["id", "decision_label_a", "decision_label_b"]
        assert applied.equals(predicted.select(applied.column_names))


def test_calibrate_on_the_scores_of_predict_is_calibrate_of_the_run(fitted: Any, tmp_path: Path) -> None:
    run = mlclf.Run.open(fitted.run)
    own = run.calibrate(fitted.test, "recall:0.9", tmp_path / "own.json")
    scores = str(run.predict(fitted.test, tmp_path / "scores"))
    found = calibrate_scores(scores, "recall:0.9", tmp_path / "t.json", label_data=fitted.test, key="id")
    changes = diff_thresholds(tmp_path / "own.json", tmp_path / "t.json", scores)
    assert changes["changed"] <= 1  # a cut may fall into the next bin: logits of files are rounded
    for name, entry in found["labels"].items():
        assert entry["support"] == own["labels"][name]["support"]


def test_metrics_of_scores_are_those_of_the_run(fitted: Any, tmp_path: Path) -> None:
    run = mlclf.Run.open(fitted.run)
    expected = run.evaluate(fitted.test)
    scores = str(run.predict(fitted.test, tmp_path / "scores"))
    out = tmp_path / "m.json"
    found = evaluate_scores(scores, run.path / "thresholds.json", out, label_data=fitted.test, key="id")
    assert document(out) == found
    assert found["gain_baseline"] == "prevalences of these rows"
    for name in ("log_loss", "brier", "hamming_loss", "subset_accuracy"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)
    for name, entry in expected["labels"].items():
        assert found["labels"][name]["threshold"] == entry["threshold"]
        for metric in ("f1", "precision", "recall", "auroc", "average_precision"):
            assert found["labels"][name][metric] == pytest.approx(entry[metric], abs=1e-3)
    half = evaluate_scores(scores, label_data=fitted.test, key="id")
    assert {entry["threshold"] for entry in half["labels"].values()} == {0.5}
    assert half["macro"]["f1"] == pytest.approx(expected["macro"]["f1_at_half"])


def test_probabilities_of_0_and_1_are_clipped_for_the_loss(tmp_path: Path) -> None:
    table = pa.table({"score_x": np.float32([0, 1, 0.5, 0.5]), "x": [1, 0, 1, 0]})
    report = evaluate_scores(written(tmp_path / "s.parquet", table), score_kind="probability")
    assert report["log_loss"] == pytest.approx((2 * -np.log(1e-7) + 2 * np.log(2)) / 4, rel=1e-6)


# ── weights ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_weights_are_repeated_rows(tmp_path: Path) -> None:
    logits, labels = made_scores(ROWS)
    times = np.random.default_rng(2).integers(0, 4, ROWS)
    weighted = written(tmp_path / "w.parquet", wide(logits, labels, w=times))
    repeated = written(tmp_path / "r.parquet", wide(np.repeat(logits, times, 0), np.repeat(labels, times, 0)))
    for objective in ("recall:0.8", "cost:1,5"):
        options = {"score_kind": "logit", "confidence": None}  # claims know that repeated rows are not new ones
        a = calibrate_scores(weighted, objective, tmp_path / "a.json", weight="w", **options)
        b = calibrate_scores(repeated, objective, tmp_path / "b.json", **options)
        for name in NAMES:
            assert a["labels"][name]["threshold"] == b["labels"][name]["threshold"]
            assert a["labels"][name]["precision"] == pytest.approx(b["labels"][name]["precision"])
    a, b = (
        evaluate_scores(path, score_kind="logit", **more)
        for path, more in ((weighted, {"weight": "w"}), (repeated, {}))
    )
    assert a["log_loss"] == pytest.approx(b["log_loss"])
    assert a["macro"]["f1"] == pytest.approx(b["macro"]["f1"])


def test_weights_of_cells_multiply_those_of_rows(tmp_path: Path) -> None:
    logits, labels = made_scores(ROWS)
    rows, cells = (np.random.default_rng(3).integers(1, 5, size) for size in (ROWS, (ROWS, 3)))
    more = {f"weight_{name}": cells[:, k] for k, name in enumerate(NAMES)}
    path = written(tmp_path / "w.parquet", wide(logits, labels, w=rows, **more))
    found = calibrate_scores(
        path, "recall:0.8", tmp_path / "a.json", score_kind="logit", weight="w", label_weights="weight_*"
    )
    for index, name in enumerate(NAMES):
        product = wide(logits, labels, w=rows * cells[:, index])
        path = written(tmp_path / "p.parquet", product)
        one = calibrate_scores(path, "recall:0.8", tmp_path / "b.json", score_kind="logit", labels=name, weight="w")
        assert found["labels"][name] == one["labels"][name]


def test_top_k_decides_the_best_labels_of_a_row(tmp_path: Path) -> None:
    logits, labels = made_scores(ROWS)
    for kind, scores in (("logit", logits), ("probability", probabilities(logits))):
        path = written(tmp_path / kind / "s.parquet", wide(scores, labels))
        thresholds = calibrate_scores(path, "top_k:1", tmp_path / "t.json", score_kind=kind)
        assert thresholds["per_row"] == 1
        found = decisions_below(apply_thresholds(path, tmp_path / "t.json", tmp_path / kind / "out"))
        decided = np.stack([found[f"decision_{name}"].to_numpy() for name in NAMES], 1)
        assert (decided.sum(1) == 1).all()
        assert np.array_equal(decided.argmax(1), scores.argmax(1))
        report = evaluate_scores(path, tmp_path / "t.json", score_kind=kind)
        assert report["micro"]["precision"] == pytest.approx((labels[decided] == 1).mean())


# ── diff ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_diff_counts_the_decisions_that_change(scored: str, tmp_path: Path) -> None:
    calibrate_scores(scored, "f1", tmp_path / "t.json", score_kind="probability")
    cut = document(tmp_path / "t.json")["labels"]["a"]["threshold"]
    changed = with_threshold(tmp_path / "t.json", {"a": 0.9, "b": 0.01})
    found = diff_thresholds(tmp_path / "t.json", changed, scored)
    a, b = (decisions_below(Path(scored))[f"score_{name}"].to_numpy() for name in "ab")
    old = document(tmp_path / "t.json")["labels"]["b"]["threshold"]
    off, on = (
        int(((a >= np.float32(cut)) & (a < np.float32(0.9))).sum()),
        int(((b >= np.float32(0.01)) & (b < old)).sum()),
    )
    assert found["labels"]["a"] == {
        "thresholds": [cut, float(np.float32(0.9))],
        "on_to_off": off,
        "off_to_on": 0,
        "share": off / ROWS,
    }
    assert (found["labels"]["b"]["on_to_off"], found["labels"]["b"]["off_to_on"]) == (0, on)
    assert found["labels"]["c"]["share"] == 0
    assert (found["rows"], found["changed"]) == (ROWS, off + on)
    assert found["share"] == (off + on) / (3 * ROWS)
    assert (found["only_in_a"], found["only_in_b"]) == ([], [])


def test_diff_compares_the_labels_in_common(scored: str, tmp_path: Path) -> None:
    calibrate_scores(scored, "f1", tmp_path / "ab.json", score_kind="probability", labels=["a", "b"])
    calibrate_scores(scored, "f1", tmp_path / "bc.json", score_kind="probability", labels=["b", "c"])
    found = diff_thresholds(tmp_path / "ab.json", tmp_path / "bc.json", scored)
    assert (list(found["labels"]), found["only_in_a"], found["only_in_b"]) == (["b"], ["a"], ["c"])
    calibrate_scores(scored, "f1", tmp_path / "c.json", score_kind="probability", labels="c")
    ab, c = str(tmp_path / "ab.json"), str(tmp_path / "c.json")
    message = f"{ab!r} and {c!r} have no label in common; compare thresholds of one task"
    with pytest.raises(ConfigError, match=exactly(message)):
        diff_thresholds(tmp_path / "ab.json", tmp_path / "c.json", scored)
    message = "the scores must be of all labels that both thresholds have, found no score of 'b'"
    with pytest.raises(ConfigError, match=exactly(message)):
        diff_thresholds(tmp_path / "ab.json", tmp_path / "bc.json", scored, scores="score_a")


def test_lists_of_the_best_labels_are_decided_as_all_scores_are(fitted: Any, tmp_path: Path) -> None:
    run = mlclf.Run.open(fitted.run)
    run.predict(fitted.test, tmp_path / "top", top=2)
    mlclf.apply_thresholds(str(tmp_path / "top"), fitted.run / "thresholds.json", tmp_path / "decided")
    listed, decided = (pq.read_table(tmp_path / name / "b.parquet") for name in ("top", "decided"))
    assert decided.column_names == ["id", "decided_labels"]
    assert decided["decided_labels"].to_pylist() == listed["decided_labels"].to_pylist()
    assert decided["id"].to_pylist() == listed["id"].to_pylist()
