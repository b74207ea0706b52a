"""What mutants of files have brought to light, and that they are the same each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mutants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_parquet import made_files


def test_mutants_are_the_same_each_time() -> None:
    bases = [mutants.Base(name, data, "y", mutants.page_starts(data)) for name, data in made_files().items()]
    assert len(bases) > 20
    for number in range(60):
        base, kind, data = mutants.mutant(bases, 0, number)
        assert (base.name, kind, data) == (lambda found: (found[0].name, *found[1:]))(mutants.mutant(bases, 0, number))
    kinds = {mutants.mutant(bases, 0, number)[1] for number in range(300)}
    assert kinds == set(mutants.MUTATIONS)


def test_integers_of_a_footer_are_found_and_replaced() -> None:
    assert [mutants.unzigzag(mutants.zigzag(value)) for value in mutants.NUMBERS] == list(mutants.NUMBERS)
    data = bytearray(next(iter(made_files().values())))
    start = mutants.footer_start(data)
    footer = data[start:-8]
    values = [mutants.unzigzag(mutants.varint(footer, place)[0]) for place, _ in mutants.integers(footer, 0)]
    metadata = pq.read_metadata(pa.BufferReader(bytes(data)))
    assert {metadata.num_rows, metadata.row_group(0).total_byte_size} <= set(values)


@pytest.mark.slow
def test_a_column_whose_description_ends_the_process_is_refused(tmp_path: Path) -> None:
    """A column that the footer makes required, while it counts its nulls."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [0.5, None] * 40, "z": [1.0, 2.0] * 40, "y": [True, False] * 40}), path)
    sound = bytearray(path.read_bytes())
    start = mutants.footer_start(sound)
    for place, end in mutants.integers(sound[start:-8], 0):
        footer = sound[start:-8]
        footer[place:end] = b"\0"
        path.write_bytes(sound[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
        try:
            pq.read_table(path, columns=["x"])
        except (OSError, pa.ArrowException) as error:
            if "histogram size mismatch" in str(error):
                break
    else:
        raise AssertionError("no integer of the footer makes such a column")
    command = [sys.executable, "-m", "mlclf", "fit", str(path), "--labels", "y", "--valid-fraction", "0"]
    command += ["--set", "optimizer.l2=0.1", "--out", str(tmp_path / "run")]
    for more, code, words in (([], 2, "column 'x': cannot be decoded"), (["--exclude", "x"], 0, "run: ")):
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert words in done.stdout + done.stderr
