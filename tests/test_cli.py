"""The command line: exit codes, where text goes, and the whole message of every bad input, which changes nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS = 60


def table() -> pa.Table:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 2))
    return pa.table(
        {
            "id": np.arange(ROWS),
            "a": x[:, 0],
            "b": x[:, 1],
            "city": rng.choice(["rome", "oslo"], ROWS),
            "label_a": (x[:, 0] > 0).astype(np.int8),
            "label_b": (x[:, 1] + rng.normal(size=ROWS) > 0).astype(np.int8),
        }
    )


def replaced(name: str, values: Any) -> pa.Table:
    column = values if isinstance(values, pa.Array) else pa.array(values)
    return table().drop_columns([name] if name in table().column_names else []).append_column(name, column)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, so that messages hold short names."""
    monkeypatch.chdir(tmp_path)
    pq.write_table(table(), "ok.parquet")
    return tmp_path


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, folders with None."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


FIT = ("--labels", "label_*", "--exclude", "id", "--out", "run")

# ── bad data ────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_text() -> None:
    Path("text.parquet").write_text("this is no Parquet file at all")


def make_cut() -> None:
    content = Path("ok.parquet").read_bytes()
    Path("cut.parquet").write_bytes(content[: len(content) // 2])


def make_shards() -> None:
    Path("in").mkdir()
    pq.write_table(table(), "in/a.parquet")
    pq.write_table(table().drop_columns(["a"]), "in/b.parquet")
    pq.write_table(replaced("b", ["x"] * ROWS).drop_columns(["label_b"]), "in/c.parquet")


def make_infinite() -> None:
    values = np.zeros(ROWS)
    values[45:47] = [np.inf, -np.inf]
    pq.write_table(replaced("b", values), "infinite.parquet", row_group_size=20)


def make_doubled() -> None:
    columns = table()
    pq.write_table(pa.table([columns["a"], columns["b"], columns["label_a"]], names=["a", "a", "label_a"]), "d.parquet")


def make_hollow() -> None:
    lists = [["x"]] * (ROWS - 1) + [["x", None]]
    pq.write_table(replaced("words", pa.array(lists, pa.list_(pa.string()))), "hollow.parquet", row_group_size=50)


def make_values() -> None:
    pq.write_table(replaced("label_a", [0, 1, 7] * (ROWS // 3)), "values.parquet")


def make_words() -> None:
    pq.write_table(replaced("label_a", ["maybe"] + ["yes"] * (ROWS - 1)), "words.parquet")


BAD_DATA: dict[str, tuple[Callable[[], Any], str, str]] = {
    "no such file": (lambda: None, "nope.parquet", "error: nope.parquet: no such file; check the path\n"),
    "a glob without matches": (
        lambda: None,
        "nope/*.parquet",
        (
            "error: no Parquet file matches 'nope/*.parquet'; check the pattern, and quote it so that the shell "
            "leaves it\n"
        ),
    ),
    "no Parquet in the folder": (
        lambda: Path("bare").mkdir(),
        "bare",
        (
            "error: bare: no Parquet file in this folder (looked for *.parquet, *.parq, *.pq, also in its folders); "
            "check the path\n"
        ),
    ),
    "not Parquet": (
        make_text,
        "text.parquet",
        (
            "error: text.parquet: not a Parquet file (it does not begin and end with PAR1); give Parquet files, or "
            "convert "
            "it first\n"
        ),
    ),
    "truncated": (
        make_cut,
        "cut.parquet",
        "error: cut.parquet: truncated: a Parquet file ends with PAR1 and this one does not; copy or write it again\n",
    ),
    "an empty file": (
        lambda: Path("zero.parquet").touch(),
        "zero.parquet",
        "error: zero.parquet: the file is empty (0 bytes); copy or write it again\n",
    ),
    "no rows": (
        lambda: pq.write_table(table().slice(0, 0), "rowless.parquet"),
        "rowless.parquet",
        (
            "error: the data has no rows: 1 Parquet file(s) under rowless.parquet are empty; check the path or the "
            "export "
            "that wrote them\n"
        ),
    ),
    "columns missing or of another role": (
        make_shards,
        "in",
        (
            "error: in/b.parquet: column 'a' is missing\n"
            "  in/c.parquet: column 'label_b' is missing\n"
            "  in/c.parquet: column 'b' must be numeric, got string\n"
            "  every shard must have the same columns in the same roles; mend these files, or write all of them anew "
            "with 'mlclf shuffle', which fills columns that a file lacks with nulls\n"
        ),
    ),
    "infinite values": (
        make_infinite,
        "infinite.parquet",
        (
            "error: infinite.parquet row group 2 column 'b': values must be finite, found 2 infinite; replace them by "
            "null "
            "(missing) or by a number where the data is written, or leave the column out of a fit with --exclude\n"
        ),
    ),
    "duplicate column names": (
        make_doubled,
        "d.parquet",
        (
            "error: d.parquet: column names must be distinct, found 'a' more than once; rename the columns where the "
            "file "
            "is written\n"
        ),
    ),
    "a list with nulls inside": (
        make_hollow,
        "hollow.parquet",
        (
            "error: hollow.parquet row group 1: column 'words' has a list with a null inside; a whole list may be null "
            "(missing), its elements may not: drop or fill them where the data is written\n"
        ),
    ),
    "label values": (
        make_values,
        "values.parquet",
        (
            "error: values.parquet row group 0: label 'label_a' must be 0, 1 or null, found '7'; say what the values "
            "mean, such as --set 'data.label_values={\"7\": null}' (0, 1, or null for not observed)\n"
        ),
    ),
    "label words": (
        make_words,
        "words.parquet",
        (
            "error: words.parquet row group 0: label 'label_a' must be 0, 1 or null, found 'maybe'; say what the "
            "values mean, such as --set 'data.label_values={\"maybe\": 0}' (0, 1, or null for not observed)\n"
        ),
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_one_error_and_changes_nothing(folder: Path, mlclf_command: Any, case: str) -> None:
    make, data, message = BAD_DATA[case]
    make()
    before = everything(folder)
    called = mlclf_command("fit", data, *FIT)
    assert (called.code, called.out) == (2, "")
    assert called.err.endswith(message)
    assert "Traceback" not in called.err
    assert everything(folder) == before


# ── bad arguments ───────────────────────────────────────────────────────────────────────────────────────────────────

BAD_ARGUMENTS: dict[str, tuple[tuple[object, ...], str]] = {
    "no label matches": (
        ("--labels", "lable_a", "--out", "run"),
        "error: --labels: no label matches 'lable_a'; the nearest columns are 'label_a', 'label_b'\n",
    ),
    "a label that is a feature": (
        ("--features", "a", "label_a", *FIT),
        (
            "error: a column cannot be a feature and a label, weight, key or group at once: 'label_a'; take it out of "
            "--features, or out of the other argument\n"
        ),
    ),
    "an unknown section": (
        (*FIT, "--set", "optimiser.l2=3"),
        "error: --set optimiser.l2: unknown setting 'optimiser'; did you mean 'optimizer'?\n",
    ),
    "an unknown setting": (
        (*FIT, "--set", "training.epoch=3"),
        "error: --set training.epoch: unknown setting 'training.epoch'; did you mean 'training.epochs'?\n",
    ),
    "two splits": (
        (*FIT, "--folds", 3, "--valid-fraction", 0.2),
        "folds cannot be given together with valid_fraction; keep one way to hold out rows\n",
    ),
    "valid data and a split": (
        (*FIT, "--valid", "ok.parquet", "--valid-by", "time:a"),
        "valid_by cannot be given together with valid; keep one way to hold out rows\n",
    ),
    "the split column is missing": (
        (*FIT, "--valid-by", "time:day"),
        "error: --valid-by: no column 'day'; the nearest columns are 'a'\n",
    ),
    "the group column is missing": (
        (*FIT, "--group", "ida"),
        "error: --group: no column 'ida'; the nearest columns are 'id', 'a'\n",
    ),
    "the key is missing": ((*FIT, "--key", "idd"), "error: --key: no column 'idd'; the nearest columns are 'id'\n"),
    "the weight is missing": (
        (*FIT, "--weight", "citi"),
        "error: --weight: no column 'citi'; the nearest columns are 'city'\n",
    ),
    "weights below zero": (
        (*FIT, "--weight", "a"),
        "fill or drop them where the data is written\n",
    ),
    "no out": (("--labels", "label_*"), "error: fit needs --out, the folder that the run is written to\n"),
    "no labels": (("--out", "run"), "error: fit needs data and --labels; see 'mlclf fit --help'\n"),
    "an unknown option": (
        (*FIT, "--folder", "x"),
        "see 'mlclf --help' and 'mlclf COMMAND --help'\n",
    ),
    "a value of another type": ((*FIT, "--folds", "three"), "see 'mlclf --help' and 'mlclf COMMAND --help'\n"),
    "one fold": ((*FIT, "--folds", 1), "folds must be a whole number from 2 to 100 or null, got '1'\n"),
    "an unknown objective": ((*FIT, "--set", "thresholds.objective=accuracy"), "\n"),
    "too small a budget": (
        (*FIT, "--set", "runtime.memory_budget=10"),
        "",
    ),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments_are_one_error_and_change_nothing(folder: Path, mlclf_command: Any, case: str) -> None:
    arguments, message = BAD_ARGUMENTS[case]
    before = everything(folder)
    called = mlclf_command("fit", "ok.parquet", *arguments)
    assert (called.code, called.out) == (2, "")
    assert called.err.startswith("error: ")
    assert called.err.endswith(message)
    assert "Traceback" not in called.err
    assert everything(folder) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "optimizer:\n  l2: 1\n  l2: 2\n",
            "error: run.yaml:3: 'optimizer.l2' must be given once, found again; remove one\n",
        ),
        (
            "labels: [a]\nexclude: *x\n",
            (
                "error: run.yaml:2: anchors and aliases are refused, found 'x'; write the value out, or quote text "
                "that begins with '*' or '&'\n"
            ),
        ),
        (
            "format_version: 7\n",
            (
                "error: run.yaml holds settings of format_version '7', this release of mlclf reads 1; use the release "
                "that wrote it or write it again\n"
            ),
        ),
        (
            "optimizer:\n  l1: 0.1\n  nme: adam\n",
            "error: run.yaml:3: unknown setting 'optimizer.nme'; did you mean 'optimizer.name'?\n",
        ),
        ("- 1\n", "error: run.yaml: must hold lines of 'key: value', found ['1']; write such lines\n"),
    ],
)
def test_a_bad_file_of_settings_is_one_error(folder: Path, mlclf_command: Any, text: str, message: str) -> None:
    Path("run.yaml").write_text(text)
    before = everything(folder)
    called = mlclf_command("fit", "ok.parquet", *FIT, "--config", "run.yaml")
    assert (called.code, called.out, called.err) == (2, "", message)
    assert everything(folder) == before


@pytest.mark.slow
def test_a_file_of_settings_is_a_whole_run(folder: Path, mlclf_command: Any) -> None:
    Path("run.yaml").write_text("train: ok.parquet\nlabels: label_*\nexclude: id\nout: run\nfolds: 2\n")
    called = mlclf_command("fit", "--config", "run.yaml")
    assert called.code == 0, called.err
    called = mlclf_command("fit", "--config", "run.yaml", "--valid-fraction", 0, "--out", "other")
    assert called.code == 0, called.err  # a split given here takes the place of the one in the file
    assert "no rows were held out" in called.out


# ── other commands ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import mlclf

    folder = tmp_path_factory.mktemp("shared")
    pq.write_table(table(), folder / "ok.parquet")
    return mlclf.fit(str(folder / "ok.parquet"), "label_*", folder / "run", exclude="id").path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("evaluate", "none", "ok.parquet"),
            "error: none: no such file; check the path\n",
        ),
        (("evaluate", "RUN", "nope.parquet"), "error: nope.parquet: no such file; check the path\n"),
        (("predict", "RUN", "nope.parquet", "--out", "scores"), "error: nope.parquet: no such file; check the path\n"),
        (("predict", "RUN", "ok.parquet", "--out", "scores", "--top", 0), "error: --top must be 1 or more, got 0\n"),
        (
            ("predict", "RUN", "ok.parquet", "--out", "ok.parquet"),
            "error: 'ok.parquet' must be a folder, found a file; name a folder\n",
        ),
        (("calibrate", "RUN", "nope.parquet"), "error: nope.parquet: no such file; check the path\n"),
        (
            ("calibrate", "ok.parquet"),
            "error: calibrating score files needs --out, the file for the thresholds\n",
        ),
        (
            ("calibrate", "ok.parquet", "--out", "t.json"),
            ("error: --score-kind must be 'probability' or 'logit': the files do not say it\n"),
        ),
        (
            ("calibrate", "ok.parquet", "--out", "t.json", "--score-kind", "logit"),
            (
                "error: --scores: no column of ok.parquet matches 'score_*', found 'id', 'a', 'b', 'city', 'label_a' "
                "and 1 more\n"
            ),
        ),
        (("inspect", "nope.parquet"), "error: nope.parquet: no such file; check the path\n"),
        (("shuffle", "nope.parquet", "--out", "new"), "error: nope.parquet: no such file; check the path\n"),
        (
            ("shuffle", "ok.parquet", "--out", "."),
            "error: .: the folder is not empty; give another --out, or --overwrite\n",
        ),
        (("shuffle", ".", "--out", "new"), "error: new: --out must not be in the input folder .; give another --out\n"),
        (
            ("shuffle", "ok.parquet", "--out", "new", "--seed", -1),
            "error: --seed must be 0 or more, and below 2**63, got -1\n",
        ),
        (
            ("shuffle", "ok.parquet", "--out", "new", "--memory-budget", "1KiB"),
            "error: --memory-budget must be at least 16 MiB (16,777,216 bytes), got 1,024 bytes\n",
        ),
    ],
)
def test_bad_arguments_of_other_commands_change_nothing(
    folder: Path, shared_run: Path, mlclf_command: Any, arguments: tuple[object, ...], message: str
) -> None:
    before, run_before = everything(folder), everything(shared_run)
    called = mlclf_command(*(shared_run if argument == "RUN" else argument for argument in arguments))
    assert (called.code, called.out, called.err) == (2, "", message)
    assert everything(folder) == before
    assert everything(shared_run) == run_before


@pytest.mark.parametrize("arguments", [("predict", "RUN"), ("nope",), (), ("evaluate",)])
def test_wrong_usage_is_exit_code_2(shared_run: Path, mlclf_command: Any, arguments: tuple[str, ...]) -> None:
    called = mlclf_command(*(shared_run if argument == "RUN" else argument for argument in arguments))
    assert (called.code, called.out) == (2, "")
    assert called.err
    assert "Traceback" not in called.err


@pytest.mark.slow
def test_results_go_to_stdout_and_progress_to_stderr(folder: Path, mlclf_command: Any) -> None:
    called = mlclf_command("fit", "ok.parquet", *FIT)
    assert called.code == 0
    assert called.out.splitlines()[0] == "60 rows (held-out rows), 2 of 2 labels scored"
    assert called.out.splitlines()[-1] == "run: run"
    assert "60 rows, 2 dense inputs, 4 ids, 2 labels; lbfgs, in memory" in called.err
    assert called.err.splitlines()[-1] == "run written to run"
    called = mlclf_command("evaluate", "run", "ok.parquet", "--out", "m.json")
    assert called.code == 0
    assert called.out.splitlines()[0] == "60 rows (these rows), 2 of 2 labels scored"
    assert called.out.splitlines()[-1] == "metrics: m.json"
    assert json.loads(Path("m.json").read_text())["rows"] == 60
    called = mlclf_command("predict", "run", "ok.parquet", "--out", "scores")
    assert (called.code, called.out) == (0, "scores: scores\n")
    called = mlclf_command("calibrate", "run", "ok.parquet", "--objective", "recall:0.9", "--out", "t.json")
    assert called.code == 0
    assert called.out.splitlines()[0] == "objective recall:0.9, method empirical"
    assert called.out.splitlines()[-1] == "thresholds: t.json"
    called = mlclf_command("inspect", "ok.parquet", "--labels", "label_*", "--json")
    assert (called.code, called.err) == (0, "")
    assert json.loads(called.out)["rows"] == 60


# ── scores of any model ─────────────────────────────────────────────────────────────────────────────────────────────


def make_scores(**columns: Any) -> None:
    scores = np.linspace(0.05, 0.95, ROWS).astype(np.float32)
    made = {"id": np.arange(ROWS), "score_x": scores, "x": (np.arange(ROWS) % 3 > 0) & (scores > 0.3)} | columns
    pq.write_table(pa.table({name: values for name, values in made.items() if values is not None}), "s.parquet")


def make_truth(ids: Any) -> None:
    pq.write_table(pa.table({"id": ids, "x": np.arange(ROWS) % 2}), "truth.parquet")


JOIN = ("--label-data", "truth.parquet", "--key", "id")

BAD_SCORES: dict[str, tuple[Callable[[], Any], tuple[object, ...], str]] = {
    "scores outside [0, 1]": (
        lambda: make_scores(score_x=np.linspace(-3, 3, ROWS)),
        (),
        (
            "error: s.parquet row group 0 column 'score_x': probabilities must be in [0, 1], found -3.0; if these are "
            "logits, say --score-kind logit\n"
        ),
    ),
    "scores that are NaN": (
        lambda: make_scores(score_x=[float("nan"), None, *[0.5] * (ROWS - 2)]),
        (),
        (
            "error: s.parquet row group 0 column 'score_x': scores must be numbers, found 2 null or NaN; drop these "
            "rows or score them again\n"
        ),
    ),
    "lists of different lengths": (
        lambda: make_scores(score_x=[[0.1, 0.2]] * 50 + [[0.1]] * 10, x=[[0, 1]] * ROWS),
        ("--labels", "x"),
        (
            "error: s.parquet row 50 column 'score_x': a list must have 2 elements, one for each label, found 1; "
            "write one for each label, in the order of the labels\n"
        ),
    ),
    "keys of which none match": (
        lambda: (make_scores(x=None), make_truth(np.arange(ROWS) + 1000)),
        JOIN,
        (
            "60 rows of scores have no labels by 'id'; left out: 0, 1, 2, 3, 4 …\n"
            "60 rows of labels have no scores by 'id'; left out: 1000, 1001, 1002, 1003, 1004 …\n"
            "error: no row has both scores and labels; check --key and the files\n"
        ),
    ),
    "keys of two types": (
        lambda: (make_scores(x=None), make_truth(np.arange(ROWS).astype(str))),
        JOIN,
        (
            "error: --key: 'id' must be of one kind everywhere, found numbers in s.parquet, strings in "
            "truth.parquet; cast it where it is written\n"
        ),
    ),
    "a key that is there twice": (
        lambda: (make_scores(x=None), make_truth(np.arange(ROWS) // 2)),
        JOIN,
        "error: --label-data: key 'id' must be distinct, found 0 more than once\n",
    ),
    "labels and no key": (
        lambda: (make_scores(x=None), make_truth(np.arange(ROWS))),
        JOIN[:2],
        "error: --label-data needs --key, the column that joins scores and labels\n",
    ),
    "no labels": (
        lambda: make_scores(x=None),
        (),
        (
            "error: a score column needs its label: s.parquet has no column 'x'; name the labels with --labels, the "
            "scores with --scores, or other files with --label-data\n"
        ),
    ),
    "names that are not there": (
        make_scores,
        ("--label-names", "names.txt"),
        "error: --label-names: 'names.txt' must be a text file in UTF-8: no such file\n",
    ),
    "a confidence of 2": (
        make_scores,
        ("--confidence", 2),
        "error: --confidence must be above 0 and below 1, or 'none' for no claim, got 2.0\n",
    ),
    "a confidence that is a word": (
        make_scores,
        ("--confidence", "high"),
        "error: --confidence must be above 0 and below 1, or 'none' for no claim, got 'high'\n",
    ),
    "another way across labels": (
        make_scores,
        ("--across-labels", "fwer"),
        "error: --across-labels must be 'fdr', or left out, got 'fwer'\n",
    ),
    "a prior that is not there": (
        make_scores,
        ("--prior", "old.json"),
        "error: 'old.json' must hold thresholds, found no such file; check the path or write it again\n",
    ),
}


@pytest.mark.parametrize("case", BAD_SCORES)
def test_bad_scores_are_one_error_and_change_nothing(folder: Path, mlclf_command: Any, case: str) -> None:
    make, arguments, message = BAD_SCORES[case]
    make()
    before = everything(folder)
    called = mlclf_command("calibrate", "s.parquet", "--score-kind", "probability", *arguments, "--out", "t.json")
    assert (called.code, called.out, called.err) == (2, "", message)
    assert everything(folder) == before


def test_a_label_of_one_class_falls_back(folder: Path, mlclf_command: Any) -> None:
    for truth in (np.zeros(ROWS, bool), np.ones(ROWS, bool), pa.nulls(ROWS)):
        make_scores(x=truth)
        called = mlclf_command("calibrate", "s.parquet", "--score-kind", "probability", "--out", "t.json")
        assert called.code == 0, called.err
        entry = json.loads(Path("t.json").read_text())["labels"]["x"]
        assert (entry["status"], entry["threshold"], entry["f1"]) == ("fallback", 0.5, None)


def test_scores_to_decisions(folder: Path, mlclf_command: Any) -> None:
    make_scores()
    scored = ("s.parquet", "--score-kind", "probability")
    called = mlclf_command("calibrate", *scored, "--objective", "recall:0.9", "--out", "a.json")
    assert called.code == 0, called.err
    assert called.out.splitlines()[-1] == "thresholds: a.json"
    called = mlclf_command(
        "calibrate", *scored, "--objective", "precision:0.9", "--confidence", "none", "--out", "b.json"
    )
    assert called.code == 0, called.err
    called = mlclf_command("apply", "s.parquet", "a.json", "--out", "decided")
    assert (called.code, called.out) == (0, "decisions: decided\n")
    decided = pq.read_table("decided/s.parquet")
    assert decided.column_names == ["id", "decision_x"]
    called = mlclf_command("evaluate", *scored, "--thresholds", "a.json", "--out", "m.json")
    assert called.code == 0, called.err
    assert called.out.splitlines()[0] == "60 rows (these rows), 1 of 1 labels scored"
    report = json.loads(Path("m.json").read_text())
    assert report["labels"]["x"]["threshold"] == json.loads(Path("a.json").read_text())["labels"]["x"]["threshold"]
    called = mlclf_command("diff", "a.json", "b.json", "s.parquet", "--json")
    changes = json.loads(called.out)["labels"]["x"]
    called = mlclf_command("diff", "a.json", "b.json", "s.parquet")
    head, _, line = called.out.splitlines()
    assert head.startswith(f"{changes['on_to_off'] + changes['off_to_on']} of 60 decisions change (")
    assert line.split()[0] == "x"
    assert line.split()[3:5] == [str(changes["on_to_off"]), str(changes["off_to_on"])]


def test_names_from_data_do_not_steer_the_terminal(folder: Path, mlclf_command: Any) -> None:
    name = "x\x1b[31m"
    make_scores(score_x=None, x=None, **{f"score_{name}": np.linspace(0, 1, ROWS), name: np.arange(ROWS) % 2})
    for command in (
        ("calibrate", "s.parquet", "--score-kind", "probability", "--out", "t.json"),
        ("diff", "t.json", "t.json", "s.parquet"),
        ("evaluate", "s.parquet", "--score-kind", "probability"),
    ):
        called = mlclf_command(*command)
        assert called.code == 0, called.err
        assert "\x1b" not in called.out + called.err
        assert "x\\x1b[31m" in called.out


def test_options_of_scores_are_refused_with_a_run(folder: Path, shared_run: Path, mlclf_command: Any) -> None:
    called = mlclf_command("calibrate", shared_run, "ok.parquet", "--score-kind", "logit", "--key", "id")
    message = "error: --score-kind, --key: for scores only; a run knows its columns\n"
    assert (called.code, called.out, called.err) == (2, "", message)
    called = mlclf_command("apply", "a.json", "--out", "decided")
    message = "error: apply needs scores and a file of thresholds: mlclf apply SCORES... THRESHOLDS --out DIR\n"
    assert (called.code, called.out, called.err) == (2, "", message)


@pytest.mark.slow
def test_shuffled_data_is_fitted_like_any_other(folder: Path, mlclf_command: Any) -> None:
    called = mlclf_command("shuffle", "ok.parquet", "--out", "new data", "--seed", 7, "--memory-budget", "64MiB")
    assert (called.code, called.err) == (0, "")
    assert called.out == (
        "60 rows in 1 file(s), 1 row group(s): new data\nfit on them: mlclf fit 'new data' --labels ... --out RUN\n"
    )
    found = pq.read_table("new data/part-00000.parquet")
    assert not found.equals(table())
    assert found.sort_by("id").equals(table())
    assert mlclf_command("fit", "new data", *FIT).code == 0
    assert mlclf_command("shuffle", "ok.parquet", "--out", "new data", "--overwrite").code == 0


@pytest.mark.slow
def test_several_values_may_follow_one_option(folder: Path, mlclf_command: Any) -> None:
    called = mlclf_command(
        "fit", "ok.parquet", "--labels", "label_a", "label_b", "--exclude", "id", "city", "--out", "r"
    )
    assert called.code == 0, called.err
    assert json.loads(Path("r/schema.json").read_text())["labels"] == ["label_a", "label_b"]
    assert json.loads(Path("r/features.json").read_text())["dense"] == ["a", "b"]


@pytest.mark.slow
def test_names_with_marks_of_yaml_and_json_are_names(folder: Path, mlclf_command: Any) -> None:
    names = ['my "x"', "[b]", "{c}", "null", "😀", "a\\n"]
    columns = {name: table()["a"] for name in names} | {"~": [1.0] * ROWS, "'y": table()["label_a"]}
    pq.write_table(pa.table(columns), "[data].parquet")
    called = mlclf_command(
        "fit", "[data].parquet", "--labels", "'y", "--weight", "~", "--out", "[run]", "--features", *names[:1],
        *[f"*{name[1:]}" if name.startswith("[") else name for name in names[1:]],
        "--set", 'data.where="my ""x""" > -1e9 AND "~" = 1',
    )  # fmt: skip
    assert called.code == 0, called.err
    schema = json.loads(Path("[run]/schema.json").read_text())
    assert ([column["name"] for column in schema["features"]], schema["weight"]) == (names, "~")


@pytest.mark.slow
def test_a_label_that_is_called_like_the_glob(folder: Path, mlclf_command: Any) -> None:
    pq.write_table(table().append_column("label_*", table()["label_a"]), "odd.parquet")
    called = mlclf_command("fit", "odd.parquet", *FIT)
    assert called.code == 0, called.err
    assert json.loads(Path("run/schema.json").read_text())["labels"] == ["label_a", "label_b", "label_*"]
    assert (
        "--labels: 'label_*' is the name of a column, and a pattern that 'label_a' and 1 more match(es)" in called.err
    )


@pytest.mark.slow
def test_the_same_file_twice_is_read_once_with_a_warning(folder: Path, mlclf_command: Any) -> None:
    called = mlclf_command("fit", "ok.parquet", "ok.parquet", *FIT)
    assert called.code == 0
    assert "ok.parquet was given more than once; it is read once\n" in called.err
    assert json.loads(Path("run/metrics.json").read_text())["rows"] == 60


@pytest.mark.slow
def test_constant_and_empty_columns_are_left_out_with_a_warning(folder: Path, mlclf_command: Any) -> None:
    data = table().append_column("five", pa.array([5] * ROWS)).append_column("void", pa.nulls(ROWS))
    pq.write_table(data, "flat.parquet")
    called = mlclf_command("fit", "flat.parquet", *FIT)
    assert called.code == 0
    assert "column 'five' is constant (5); it is left out\n" in called.err
    assert "column 'void' has no value in any row; it is left out\n" in called.err
    assert json.loads(Path("run/features.json").read_text())["dense"] == ["a", "b"]


def test_debug_shows_the_traceback(folder: Path, mlclf_command: Any) -> None:
    called = mlclf_command("fit", "nope.parquet", *FIT, "--debug")
    assert called.code == 2
    assert "Traceback (most recent call last)" in called.err
    assert called.err.endswith("error: nope.parquet: no such file; check the path\n")


def stopped_fit(mlclf_command: Any, monkeypatch: pytest.MonkeyPatch, stop: Callable[[], None]) -> Any:
    """A fit that meets `stop` when it writes its model; what it leaves can go on."""

    def write_model(*_: object) -> None:
        stop()

    with monkeypatch.context() as patch:
        patch.setattr("mlclf.run_folder.RunFolder.write_model", write_model)
        called = mlclf_command("fit", "ok.parquet", *FIT)
    assert not Path("run/manifest.json").exists()
    assert mlclf_command("evaluate", "run", "ok.parquet").err == (
        "error: run: the fit of this run has not finished; go on with: mlclf fit --resume --out run\n"
    )
    assert mlclf_command("fit", "--resume", "--out", "run").code == 0
    assert mlclf_command("evaluate", "run", "ok.parquet").code == 0
    return called


@pytest.mark.slow
def test_a_defect_is_exit_code_1_in_one_block(mlclf_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("half\x1b[31m way")

    called = stopped_fit(mlclf_command, monkeypatch, fail)
    assert called.code == 1
    assert called.err.endswith(
        "error: unexpected ZeroDivisionError: half\\x1b[31m way\n"
        "  this is a defect of mlclf; --debug shows where it happened\n"
    )
    assert "Traceback" not in called.err


@pytest.mark.slow
def test_a_full_disk_is_exit_code_1(mlclf_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device", "run/model.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr("mlclf.run_folder.RunFolder.write_model", lambda *_: fail())
        called = mlclf_command("fit", "ok.parquet", *FIT)
    assert called.code == 1
    assert "defect" not in called.err
    assert re.search(r"^error: run: .*[\d,]+ are free now; what was begun is removed: make room", called.err, re.M)
    assert not Path("run").exists()
    assert mlclf_command("fit", "ok.parquet", *FIT).code == 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signals_in_this_process(mlclf_command: Any, monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> None:
    def stop() -> None:
        if name == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        raise KeyboardInterrupt

    called = stopped_fit(mlclf_command, monkeypatch, stop)
    assert called.code == code
    assert called.err.endswith(f"error: stopped by {name}\n")


# ── the process itself ──────────────────────────────────────────────────────────────────────────────────────────────


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mlclf", *arguments], capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom mlclf.cli import main\nsys.argv = ['mlclf', *sys.argv[1:]]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'polars', 'rich'} & set(sys.modules)\nassert not heavy, heavy"
    )
    for arguments in (["--help"], ["fit", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Usage: mlclf" in done.stdout


@pytest.mark.slow
def test_exit_codes_of_the_process(folder: Path) -> None:
    bad = process("fit", "nope.parquet", *FIT)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "error: nope.parquet: no such file; check the path\n"
    wrong = process("fit", "ok.parquet", "--nope")
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


@pytest.mark.slow
def test_a_signal_leaves_a_run_that_can_go_on(folder: Path) -> None:
    settings = ["--set", "training.epochs=100000", "--set", "optimizer.name=sgd", "--valid-fraction", "0"]
    numbers = {signal.SIGINT: 130, signal.SIGTERM: 143}
    running = {}
    for number in numbers:
        arguments = ["--labels", "label_*", "--exclude", "id", "--out", number.name, *settings]
        command = [sys.executable, "-m", "mlclf", "fit", "ok.parquet", *arguments]
        running[number] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    for number, code in numbers.items():
        run = Path(number.name)
        while not (run / "checkpoints/final/last.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        running[number].send_signal(number)
        out, err = running[number].communicate(timeout=60)
        assert (running[number].returncode, out) == (code, "")
        assert err.endswith(f"error: stopped by {number.name}\n")
        assert "Traceback" not in err
        records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert [record["epoch"] for record in records] == list(range(len(records)))
        assert not (run / "manifest.json").exists()
    assert not [name for name in everything(folder) if ".tmp-" in name]


def test_a_closed_pipe_is_no_traceback(shared_run: Path) -> None:
    command = f"{sys.executable} -m mlclf inspect ok.parquet | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
