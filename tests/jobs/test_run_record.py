"""A run says what made it: `run.json`, and `mlclf inspect RUN`."""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from made_tables import document, lines_of, plain_table, write

import mlclf
from mlclf.config.loading import load_run_file
from mlclf.errors import ConfigError
from mlclf.fitting.record import command_of
from mlclf.jobs.run_summary import inspect_run, run_lines


def bent_table(rows: int = 3000) -> pa.Table:
    """A label that depends on how far a number is from 0, which a line cannot follow."""
    random = np.random.default_rng(0)
    x = random.normal(size=rows)
    return pa.table({"x": x, "y": (random.random(rows) < 1 / (1 + np.exp(2 - 3 * abs(x)))).astype(np.int8)})


def footer_hash(path: str) -> str:
    raw = Path(path).read_bytes()
    return hashlib.sha256(raw[-int.from_bytes(raw[-8:-4], "little") - 8 :]).hexdigest()


@pytest.mark.slow
def test_a_run_says_what_made_it(tmp_path: Path) -> None:
    data = write(tmp_path / "a b.parquet", bent_table())
    before = datetime.now(UTC).replace(microsecond=0)
    run = mlclf.fit(data, "y", tmp_path / "run", settings={"training.seed": 3})
    record = document(run.path / "run.json")
    assert record["version"] == mlclf.__version__
    assert before <= datetime.fromisoformat(record["created"]) <= datetime.now(UTC)
    size = Path(data).stat().st_size
    assert record["data"] == [{"path": data, "bytes": size, "rows": 3000, "sha256_of_footer": footer_hash(data)}]
    assert record["valid_data"] == []
    assert (record["rows"], record["labels"], record["solver"]) == (3000, ["y"], "lbfgs")
    assert record["command"] == f"mlclf fit '{data}' --labels y --out {run.path} --set training.seed=3"
    assert record["settings"] == run.settings.model_dump(mode="json")
    last = lines_of(run.path / "log.jsonl")[-1]
    assert last["train_loss"] is not None
    assert 0 < record["l2"] < np.inf
    assert record["knots_kept"]
    assert record["knots_tried"] == 5
    knots = record["knots"]["x"]
    names = [f"x above {knot:.6g}" for knot in knots]
    assert names == [name for name in document(run.path / "features.json")["dense"] if "above" in name]
    assert "run.json" in document(run.path / "manifest.json")["files"]


@pytest.mark.slow
def test_the_l2_is_the_one_that_was_taken(tmp_path: Path) -> None:
    data = write(tmp_path / "d.parquet", plain_table())
    for name, settings in (("lbfgs", {}), ("adam", {"optimizer.name": "adam"})):
        run = mlclf.fit(data, "label_*", tmp_path / name, settings={"optimizer.l2": 0.03, **settings})
        record = document(run.path / "run.json")
        assert (record["l2"], record["solver"]) == (0.03, name)
        assert record["knots"] == {}
        assert not record["knots_kept"]


def test_a_command_can_be_run_again() -> None:
    sets = ["train=[a b.parquet, s3://b/c]", "labels=[x, 'l*']", "out=o", "columns=[p]", "valid_fraction=0.25"]
    sets += ["optimizer.l2=0.5", "model.hidden=[8, 4]", "features.roles.zip=categorical", "training.shuffle=false"]
    run_file = load_run_file(None, sets)
    assert command_of(run_file) == (
        "mlclf fit 'a b.parquet' s3://b/c --labels x --labels 'l*' --valid-fraction 0.25 --features p --out o "
        """--set 'features.roles={"zip": "categorical"}' --set 'model.hidden=[8, 4]' --set optimizer.l2=0.5 """
        "--set training.shuffle=false"
    )


def test_a_command_holds_no_secrets() -> None:
    sets = ['train=["s3://KEYID:SECRET@bucket/a.parquet?region=eu&session_token=TOKEN"]', "labels=[y]"]
    sets += ["runtime.cache=s3://KEYID:SECRET@bucket/cache"]
    command = command_of(load_run_file(None, sets))
    assert command == ("mlclf fit 's3://bucket/a.parquet?region=eu' --labels y --set runtime.cache=s3://bucket/cache")


def test_inspect_shows_what_made_a_run(fitted: Any) -> None:
    report = inspect_run(fitted.run)
    assert report["metrics"] == document(fitted.run / "metrics.json")
    lines = list(run_lines(report))
    assert lines[0].startswith(f"{fitted.run}: written by mlclf {mlclf.__version__} at 20")
    assert lines[1] == f"made by: mlclf fit {fitted.data} --labels 'label_*' --key id --out {fitted.run}"
    assert lines[2] == "400 rows of 1 file(s), 2 label(s)"
    assert lines[4].startswith("solver: lbfgs; l2: ")
    assert lines[-1] == "thresholds: f1, method shrinkage"
    json.dumps(report)
    with pytest.raises(ConfigError, match=r"^--labels goes with data, and .* is a run, whose labels are known"):
        inspect_run(fitted.run, "label_*")


def test_a_run_of_before_opens_and_says_what_it_knows(fitted: Any, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(fitted.run, old)
    (old / "run.json").unlink()
    manifest = document(old / "manifest.json")
    del manifest["files"]["run.json"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    assert mlclf.Run.open(old).label_names == ("label_a", "label_b")
    lines = list(run_lines(inspect_run(old)))
    assert lines[0] == f"{old}: a run of before runs said what made them"
    assert "solver: lbfgs; l2: unknown" in lines
