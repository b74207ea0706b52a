"""Every public function shows its arguments: to `help()`, and to a type checker of a user's script."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mlclf

SCRIPT = """
from pathlib import Path

import numpy as np

import mlclf

run: mlclf.Run = mlclf.fit(
    ["a.parquet", Path("b.parquet")], "label_*", "run", valid="v.parquet", valid_fraction=0.1, valid_by="time:day",
    folds=5, features="x_*", exclude=["x_1"], weight="w", key="id", group="user", config="fit.yaml",
    settings={"optimizer.l2": 0.1}, resume=False, overwrite=True,
)
run = mlclf.Run.open(path="run")
metrics: dict[str, object] = run.evaluate("data", "metrics.json", by="city", bootstrap=200, exact=True)
folder: Path = run.predict("data", Path("scores"), 5, resume=True, overwrite=False)
document: dict[str, object] = run.calibrate(
    "data", "precision:0.9", "thresholds.json", confidence=None, across_labels="fdr", prior="prior.json",
    unlabelled=["new"], prevalence="prevalence.json",
)
held_out: dict[str, object] | None = run.metrics
document = mlclf.evaluate_scores(
    "scores", "thresholds.json", "metrics.json", by="city", bootstrap=200, exact=True, scores="score_*",
    score_kind="logit", labels="label_*", label_data="labels", key="id", weight="w", label_weights="weight_*",
    group="user", label_names=["a", "b"], memory_budget=1 << 30,
)
document = mlclf.calibrate_scores(
    "scores", "f1", "thresholds.json", confidence=0.9, across_labels=None, prior="prior.json", unlabelled="new",
    prevalence="prevalence.json", scores="score_*", score_kind="probability", labels="label_*", label_data="labels",
    key="id", weight="w", label_weights="weight_*", group="user", label_names=["a", "b"], memory_budget=1 << 30,
)
folder = mlclf.apply_thresholds(
    "scores", "thresholds.json", "out", scores="score_*", score_kind="logit", key="id", resume=False, overwrite=True
)
document = mlclf.diff_thresholds("a.json", "b.json", "scores", scores="score_*", score_kind="logit")
thresholds: mlclf.Thresholds = mlclf.tune_thresholds(
    np.zeros((2, 1)), np.zeros((2, 1)), objective="f1", score_kind="probability", weights=[1, 1], label_weights=None,
    groups=["a", "b"], confidence=0.95, across_labels=None, prior=None, method="plain",
)
rows: int = mlclf.convert(
    "a.csv", "out", format="csv", labels_xml=None, first_index=1, multilabel=False, types={"a": "int64"}, names=["a"],
    quotes=True, delimiter=";", encoding="utf-8", decimal=".", escape=None, null_words=("NA",), overwrite=True,
    memory_budget=1 << 30,
).rows
parts: dict[str, int] = mlclf.split(
    "data", "out", [0.8, 0.2], "hash", labels="label_*", names=["train", "test"], seed=0, overwrite=True,
    memory_budget=1 << 30,
).rows
rows = mlclf.shuffle("data", "out", seed=0, overwrite=True, memory_budget=1 << 30).rows
loader = mlclf.ParquetLoader("data", "label_*", 4096, 0, columns=["x_*"], exclude="x_1", weight="w", where="x_2 > 0")
fitted: mlclf.FittedFeatures = loader.features
loader = mlclf.ParquetLoader(
    data="new", features=fitted, shuffle=False, memory_budget=1 << 30, threads=2, cache="off", on_corrupt="skip",
    rank=0, world_size=1, settings=run.settings,
)
for batch in loader:
    known: mlclf.Batch = batch
for error in (mlclf.MlclfError, mlclf.DataError, mlclf.ConfigError, mlclf.RunError, mlclf.TrainingError):
    raise error("message")
raise mlclf.CheckpointError(f"{mlclf.__version__}")
"""

WRONG = (
    "mlclf.fit('a', label='y')",
    "run.evaluate('a', boot=1)",
    "run.predict('a', 'out', tops=3)",
    "run.calibrate('a', confidnce=0.9)",
    "mlclf.evaluate_scores('a', score_kinds='logit')",
    "mlclf.calibrate_scores('a', 'f1', 'out', groups='g')",
    "mlclf.apply_thresholds('a', 'b', 'out', keys='id')",
    "mlclf.diff_thresholds('a', 'b', 'c', kind='logit')",
)

METHODS = ("open", "evaluate", "predict", "calibrate")
"""Of `Run`, called with arguments."""


def test_the_script_gives_every_argument() -> None:
    calls: dict[str, list[ast.Call]] = {}
    for node in ast.walk(ast.parse(SCRIPT)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            calls.setdefault(node.func.attr, []).append(node)
    public = {name: getattr(mlclf, name) for name in mlclf.__all__}
    functions = {name: job for name, job in public.items() if inspect.isfunction(job)}
    assert len(functions) >= 9
    functions |= {"ParquetLoader": mlclf.ParquetLoader} | {name: getattr(mlclf.Run, name) for name in METHODS}
    for name, job in functions.items():
        parameters = [each for each in inspect.signature(job).parameters if each != "self"]
        given = {key.arg for call in calls[name] for key in call.keywords}
        given |= {each for call in calls[name] for each in parameters[: len(call.args)]}
        assert given == set(parameters), name
    assert all(f"mlclf.{name}" in SCRIPT for name in public)


def test_nothing_public_hides_its_arguments() -> None:
    """No ``*args`` or ``**options`` in what `help()` shows."""
    seen = 0
    for name in mlclf.__all__:
        found = getattr(mlclf, name)
        methods = vars(found).items() if inspect.isclass(found) else [(name, found)]
        for method, job in methods:
            if inspect.isroutine(job) and not method.startswith("_"):
                kinds = {each.kind for each in inspect.signature(getattr(found, method, found)).parameters.values()}
                assert not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}, f"{name}.{method}"
                seen += 1
    assert seen >= 20


@pytest.mark.slow  # mypy reads the library
def test_a_script_with_every_argument_is_typed(tmp_path: Path) -> None:
    script, wrong = tmp_path / "script.py", tmp_path / "wrong.py"
    script.write_text(SCRIPT)
    wrong.write_text("import mlclf\n\nrun = mlclf.Run.open('run')\n" + "\n".join(WRONG) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, str(script), str(wrong)]
    command += ["--ignore-missing-imports", "--follow-imports", "silent"]
    # mypy does not see packages that are installed to be edited
    env = os.environ | {"MYPYPATH": str(Path(mlclf.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    lines = [f"{wrong.name}:{row}" for row in range(4, 4 + len(WRONG))]
    assert [line.partition(": error")[0] for line in errors] == lines, errors
    assert all("[call-arg]" in line for line in errors)
