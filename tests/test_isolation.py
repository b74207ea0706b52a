"""No module of the current folder is imported, by the command or by what it starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

NAMES = ("base64", "csv", "json", "numpy", "polars", "pyarrow", "torch", "typer", "yaml")
START = "import sys; from mlclf.cli import main; sys.argv[0] = 'mlclf'; main()"
COMMANDS = {
    "module": [sys.executable, "-m", "mlclf"],
    "script": [sys.executable, "-P", "-c", START],  # as the script that pip writes: its own folder comes first
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_files_named_like_modules_are_not_run(tmp_path: Path, command: str) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0, 3.0], "label_a": [True, False, True]}), tmp_path / "a.parquet")
    early = ["mlclf", "pathlib", "typing"]  # `python -m` itself looks for these in the current folder
    for name in (*NAMES, *(early if command == "script" else [])):
        (tmp_path / f"{name}.py").write_text("open('RAN', 'w')\nraise SystemExit('run')\n")
    arguments = ["inspect", "a.parquet", "--labels", "label_a"]
    done = subprocess.run(
        [*COMMANDS[command], *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert not (tmp_path / "RAN").exists()
    assert done.returncode == 0, done.stderr
    assert "cannot be read" not in done.stdout + done.stderr
