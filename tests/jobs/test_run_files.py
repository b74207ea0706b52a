"""A run is read once, from bytes whose hashes were checked; what becomes of its files later is nothing to it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_tables import plain_table, write

import mlclf
from mlclf.errors import ConfigError, RunError
from mlclf.given_files import read_given
from mlclf.run_folder import FITTED, UNLISTED


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    data = write(folder / "data.parquet", plain_table(300), row_group_size=100)
    for name, l2 in (("run", 0.01), ("other", 1.0)):
        settings = {"optimizer.l2": l2}
        mlclf.fit(data, "label_*", folder / name, exclude="id", valid_fraction=0.3, settings=settings)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole / "run", tmp_path / "run"))


@pytest.mark.slow
def test_every_file_is_opened_once(run: Path) -> None:
    code = (
        "import sys, collections, mlclf\nmlclf.Run\nfound = collections.Counter()\n"
        "sys.addaudithook(lambda event, args: event == 'open' and found.update([str(args[0])]))\n"
        "run = mlclf.Run.open(sys.argv[1])\nrun.metrics, run.calibrate((), out=sys.argv[2])\n"
        "import json; inside = [n for n in found if n.startswith(sys.argv[1])]\n"
        "print(json.dumps({n.rsplit('/', 1)[1]: found[n] for n in inside}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run), str(run.parent / "t.json")], capture_output=True, text=True, check=True
    )
    counts = json.loads(done.stdout.splitlines()[-1])
    assert {name: counts.get(name) for name in (*FITTED, *UNLISTED)} == dict.fromkeys((*FITTED, *UNLISTED), 1)


@pytest.mark.slow
def test_files_that_are_replaced_between_check_and_use_are_not_used(
    run: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = mlclf.Run.open(whole / "run")
    data = str(whole / "data.parquet")

    def then_replaced(path: Path, most: int = sys.maxsize) -> bytes:
        content = read_given(path, most)
        if path.parent == run:
            path.write_bytes((whole / "other" / path.name).read_bytes()[:-3])
        return content

    monkeypatch.setattr("mlclf.run_folder.read_given", then_replaced)
    found = mlclf.Run.open(run)
    assert found.evaluate(data) == expected.evaluate(data)
    assert found.metrics == expected.metrics
    objective = {"objective": "youden", "out": run.parent / "t.json"}
    assert found.calibrate((), **objective) == expected.calibrate((), **objective)


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("change", ["bit", "short", "empty", "other", "gone"])
def test_a_file_that_is_another_one_is_refused(run: Path, whole: Path, name: str, change: str) -> None:
    path = run / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    others: dict[str, Any] = {"bit": content, "short": content[:-1], "empty": b"", "other": name.encode()}
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(others[change])
    says = (
        "is missing though the manifest lists it; copy the run again, whole"
        if change == "gone"
        else "has changed since fit wrote it (its SHA-256 differs); copy the run again"
    )
    if change == "gone" and name == "config.yaml":
        says = "is not a run folder (it has no config.yaml); give the --out of a fit"
        path = run
    with pytest.raises(RunError, match=rf"^{re.escape(f'{path}: {says}')}$"):
        mlclf.Run.open(run)


def test_thresholds_of_another_run_are_refused(run: Path, whole: Path) -> None:
    shutil.copy(whole / "other" / "thresholds.json", run)
    message = (
        f"{run / 'thresholds.json'}: must be of this run's model, found thresholds that were tuned for another one; "
        "copy the run again, whole, or tune them anew with 'mlclf calibrate'"
    )
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        mlclf.Run.open(run)


def test_thresholds_without_a_model_are_taken(run: Path) -> None:
    """Those of runs that were written before, and of `calibrate` on scores."""
    document = json.loads((run / "thresholds.json").read_text())
    del document["model"]
    (run / "thresholds.json").write_text(json.dumps(document))
    assert mlclf.Run.open(run).thresholds is not None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", b"\0" * 9, b'{"format_version": 1}'])
@pytest.mark.parametrize("name", UNLISTED)
def test_damaged_thresholds_and_metrics_are_refused_by_name(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    with pytest.raises((RunError, ConfigError), match=name.removesuffix(".json")):
        print(mlclf.Run.open(run).metrics)
