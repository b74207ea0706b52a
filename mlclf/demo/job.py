"""The data set with a known answer: made from a linear model, learned back, and compared with the best possible."""

from __future__ import annotations

import shlex
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlclf.demo.made_data import ROWS, DemoTruth, write_demo_data
from mlclf.errors import ConfigError
from mlclf.files import write_json
from mlclf.jobs.fit import fit
from mlclf.outputs.claims import is_empty
from mlclf.outputs.output import claimed
from mlclf.progress import Progress

MARK = "demo.json"
"""File that says that a folder was made here, so that another demo may replace what is in it."""

DATA_JOB = "demo"


@dataclass(frozen=True)
class DemoResult:
    """What the demo left behind.

    Attributes:
        metrics: the document of `metrics_file`, of the test rows.
    """

    truth: DemoTruth
    run: Path
    metrics_file: Path
    scores: Path
    metrics: dict[str, Any]


def demo_steps(out: Path, seed: int = 0, rows: int = ROWS) -> Generator[Progress, None, DemoResult]:
    """Make the data, fit, evaluate and predict; yield a note before each, and return the result.

    Args:
        out: folder that is empty, missing, or holds an earlier demo, which is replaced.
        seed: decides the model, the rows and the fit.
        rows: of the training data; half as many are made to test.

    Raises:
        ConfigError: `out` holds something else.
    """
    with claimed(out, "demo", adds=True) as output:
        _check(out)
        for note in output.said():
            yield Progress.warning("demo", note)
        return (yield from _demonstrated(out, seed, rows))


def _demonstrated(out: Path, seed: int, rows: int) -> Generator[Progress, None, DemoResult]:
    yield Progress("demo", note=f"making {rows + rows // 2:,} rows of data from a known model")
    with claimed(out / "data", DATA_JOB, overwrite=True) as data, data.opened(mark=False) as new:
        made = write_demo_data(new, seed, rows)
    truth = replace(made, train=out / "data" / "train", test=out / "data" / "test")
    yield Progress("demo", note="mlclf fit: statistics, training, thresholds")
    settings = {"training.seed": seed}
    run = fit(str(truth.train), truth.labels, out / "run", key="customer", settings=settings, overwrite=True)
    yield Progress("demo", note="mlclf evaluate: metrics of the test rows")
    metrics_file = out / "metrics.json"
    metrics = run.evaluate(str(truth.test), out=metrics_file)
    yield Progress("demo", note="mlclf predict: scores and decisions of the test rows")
    run.predict(str(truth.test), out / "scores", overwrite=True)
    return DemoResult(truth, run.path, metrics_file, out / "scores", metrics)


def demo_table(result: DemoResult) -> list[tuple[str, ...]]:
    """Return the rows to show, the first one being the heading: a row for each label, its AUROC beside the best."""
    rows: list[tuple[str, ...]] = [("label", "test positives", "AUROC", "best possible", "difference")]
    for name in result.truth.labels:
        best = result.truth.best_auroc[name]
        ours = result.metrics["labels"][name]["auroc"]
        known = ("undefined", "undefined", "")
        if ours is not None and not np.isnan(best):
            known = (f"{ours:.4f}", f"{best:.4f}", f"{ours - best:+.4f}")
        rows.append((name, f"{result.truth.positives[name]:,}", *known))
    return rows


def next_steps(result: DemoResult) -> list[str]:
    """Return lines that say where everything lies, and commands to try on it."""
    paths = (result.run, result.truth.train, result.truth.test, result.run.with_name("fraud"))
    run, train, test, fraud = (shlex.quote(str(path)) for path in paths)
    return [
        f"data      {result.truth.train.parent}",
        f"run       {result.run}  (model, thresholds, log of the training)",
        f"metrics   {result.metrics_file}",
        f"scores    {result.scores}",
        "",
        "Try next:",
        f"  mlclf inspect {train} --labels 'label_*'",
        f"  mlclf calibrate {run} {test} --objective precision:0.9",
        f"  mlclf fit {train} --labels label_fraud --exclude 'label_*' --key customer --out {fraud}",
    ]


def _check(out: Path) -> None:
    """Refuse a folder of anything but a demo, and a demo in which something else lies, before anything is replaced."""
    if not is_empty(out) and not (out / MARK).is_file():
        raise ConfigError(f"{str(out)!r} holds files that are not of a demo; give --out an empty folder")
    for name, job in (("data", DATA_JOB), ("run", "fit"), ("scores", "predict")):
        with claimed(out / name, job, overwrite=True):
            pass
    write_json(out / MARK, {"format_version": 1, "made_by": "mlclf demo"})
