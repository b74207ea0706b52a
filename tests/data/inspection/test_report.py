"""What `inspect` reports, and the lines it is shown as."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlclf.config.loading import load_run_file
from mlclf.data.convert.shuffling import shuffle
from mlclf.data.inspection.report import inspect
from mlclf.data.inspection.summary import summary_lines
from mlclf.errors import ConfigError, DataError
from mlclf.messages import printable


def write(path: Path, columns: dict[str, object], **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def by_name(report: dict[str, object]) -> dict[str, dict[str, object]]:
    return {column["name"]: column for column in report["columns"]}  # type: ignore[attr-defined]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    columns = {
        "age": pa.array([1.5, None, 3.5, 2.5], pa.float32()),
        "day": pa.array([date(2020, 1, 1), date(2020, 1, 2), date(2021, 1, 1), None]),
        "city": ["a", "b", "a", "c"],
        "words": [["x", "y"], [], None, ["z"]],
        "blob": pa.array([b"1", b"2", b"3", b"4"]),
        "label_x": pa.array([1, 0, None, 0], pa.int8()),
        "label_y": ["yes", "no", "no", "no"],
    }
    write(tmp_path / "a.parquet", columns, row_group_size=2, compression="zstd", write_page_checksum=True)
    write(tmp_path / "b.parquet", columns, compression="snappy")
    return tmp_path


def test_footers_alone_give_files_sizes_and_columns(folder: Path) -> None:
    report = inspect(str(folder))
    assert report["rows"] == 8
    assert report["files"]["count"] == 2
    assert report["files"]["with_page_checksums"] == 1
    assert report["files"]["without_page_checksums"] == [str(folder / "b.parquet")]
    assert report["row_groups"] == {"count": 3, "min_rows": 2, "median_rows": 2, "max_rows": 4}
    assert report["units"]["count"] == 2
    assert report["compression"] == {"ZSTD": 14, "SNAPPY": 7}
    columns = by_name(report)
    assert columns["age"] == {
        "name": "age",
        "type": "float",
        "role": "numeric",
        "null_share": 0.25,
        "min": 1.5,
        "max": 3.5,
        "bytes": columns["age"]["bytes"],
    }
    assert (columns["day"]["min"], columns["day"]["max"]) == ("2020-01-01", "2021-01-01")
    assert (columns["city"]["role"], columns["city"]["min"], columns["city"]["max"]) == ("categorical", "a", "c")
    assert (columns["words"]["role"], columns["words"]["null_share"]) == ("tokens", None)
    assert columns["blob"]["role"] == "ignored"
    assert report["ignored"] == [
        {
            "name": "blob",
            "reason": "column 'blob' holds bytes; if they are text in UTF-8, "
            '--set \'features.roles={"blob": "categorical"}\' or text reads them',
        }
    ]
    assert "labels" not in report
    json.dumps(report, allow_nan=False)


def test_footers_alone_load_no_torch(folder: Path) -> None:
    code = (
        "import sys; from mlclf.data.inspection.report import inspect; "
        "from mlclf.data.inspection.summary import summary_lines; "
        f"summary_lines(inspect({str(folder)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_labels_are_counted_in_one_pass(folder: Path) -> None:
    report = inspect(str(folder), ["label_*"])
    assert report["labels"] == {
        "label_x": {"positives": 2, "observed": 6, "nulls": 2, "prevalence": 2 / 6},
        "label_y": {"positives": 2, "observed": 8, "nulls": 0, "prevalence": 0.25},
    }
    assert by_name(report)["label_x"]["role"] == "label"
    assert "labels 'label_y': 'no' is read as 0, 'yes' as 1" in report["warnings"]
    # age, day and an indicator for each; missing, other and three levels of city; missing, other and three words.
    assert report["inputs"] == {"dense": 4, "vocabulary": 10}
    json.dumps(report, allow_nan=False)


def test_tags_are_labels_by_falling_count(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"x": [1.0, 2.0, 3.0], "tags": [["b", "a"], ["b"], None]})
    report = inspect(str(path), ["tags"])
    assert by_name(report)["tags"]["role"] == "tags"
    assert list(report["labels"].items()) == [
        ("b", {"positives": 2, "observed": 2, "nulls": 1, "prevalence": 1.0}),
        ("a", {"positives": 1, "observed": 2, "nulls": 1, "prevalence": 0.5}),
    ]


def test_settings_decide_roles_and_label_values(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"zip": [1, 2, 3], "label": ["pos", "neg", "neg"]})
    settings = load_run_file(
        None, ["features.roles.zip=categorical", 'data.label_values={"pos": 1, "neg": 0}']
    ).settings
    report = inspect(str(path), ["label"], settings=settings)
    assert by_name(report)["zip"]["role"] == "categorical"
    assert report["labels"]["label"]["positives"] == 1


def test_parts_of_the_arguments_are_shown_as_roles(folder: Path) -> None:
    columns = by_name(inspect(str(folder), key="city", weight="age", group="day", exclude=["words"]))
    roles = {name: columns[name]["role"] for name in ("city", "age", "day", "words")}
    assert roles == {"city": "key", "age": "weight", "day": "group", "words": "excluded"}


def test_one_sided_labels_are_warned_of(tmp_path: Path) -> None:
    columns = {
        "x": [1.0, 2.0],
        "label_none": pa.array([None, None], pa.bool_()),
        "label_never": [0, 0],
        "label_always": [1, 1],
        "label_good": [0, 1],
    }
    report = inspect(str(write(tmp_path / "a.parquet", columns)), ["label_*"])
    assert report["labels"]["label_none"] == {"positives": 0, "observed": 0, "nulls": 2, "prevalence": None}
    assert report["warnings"] == [
        "1 of 4 labels have no observed row: 'label_none'",
        "1 of 4 labels have no positive row: 'label_never'",
        "1 of 4 labels have no negative row: 'label_always'",
    ]
    assert "undefined" in "\n".join(summary_lines(report))


def test_empty_and_constant_columns_are_warned_of_from_the_footers(tmp_path: Path) -> None:
    columns = {
        "x": [1.0, 2.0],
        "none": pa.array([None, None], pa.float64()),
        "same": [7, 7],
        "half": pa.array([3, None], pa.int8()),
    }
    report = inspect(str(write(tmp_path / "a.parquet", columns)))
    assert report["warnings"] == [
        "column 'none' has no value in any row; a fit leaves it out",
        "column 'same' is constant (7); a fit leaves it out",
    ]


def test_a_column_that_names_the_row_is_warned_of(tmp_path: Path) -> None:
    rows = 3_000
    columns = {"id": [f"r{row}" for row in range(rows)], "x": np.arange(rows) % 7, "label": np.arange(rows) % 2}
    report = inspect(str(write(tmp_path / "a.parquet", columns)), ["label"])
    assert report["warnings"] == [
        "column 'id' has 3,000 distinct values, nearly one a row, which tell nothing of other rows; it is left out"
    ]


def test_small_row_groups_and_empty_files_are_warned_of(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"x": np.arange(300.0)}, row_group_size=2)
    write(tmp_path / "b.parquet", {"x": np.arange(0.0)})
    report = inspect(str(tmp_path))
    assert report["files"]["empty"] == [str(tmp_path / "b.parquet")]
    assert report["warnings"] == [
        "1 of 2 files have no rows",
        (
            "row groups are small (2 rows in the middle), which makes reading several times slower; "
            "write them with 50,000 rows or more"
        ),
    ]


def test_data_without_any_input_is_a_report_and_no_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"blob": pa.array([b"1", b"2"]), "label": [0, 1]})
    report = inspect(str(path), ["label"], exclude=["blob"])
    assert "labels" not in report
    assert by_name(report)["label"]["role"] == "label"
    assert report["warnings"] == [
        "no column can be an input: every one is a label, left out, or of a type that cannot be read"
    ]
    everything = inspect(str(path), ["*"])
    assert [column["name"] for column in everything["columns"]] == ["blob", "label"]
    nested = write(tmp_path / "b.parquet", {"s": pa.array([{"a": {"b": [1]}}, None])})
    assert summary_lines(inspect(str(nested)))


def test_what_a_fit_refuses_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"x": [1.0, 2.0], "label": [0, 5]})
    with pytest.raises(DataError, match=r"row group 0: label 'label' must be 0, 1 or null, found '?5"):
        inspect(str(path), ["label"])
    with pytest.raises(ConfigError, match="--labels: no label matches 'lable'; the nearest columns are 'label'"):
        inspect(str(path), ["lable"])
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'none.parquet'}: no such file; check the path")):
        inspect(str(tmp_path / "none.parquet"))


def test_columns_of_the_folders_names_are_shown(tmp_path: Path) -> None:
    for year in (2020, 2021):
        write(tmp_path / f"year={year}" / "a.parquet", {"x": [1.0, 2.0]})
    columns = by_name(inspect(str(tmp_path)))
    assert (columns["year"]["type"], columns["year"]["role"]) == ("int64", "numeric")
    assert (columns["year"]["null_share"], columns["year"]["min"]) == (None, None)
    assert columns["x"]["max"] == 2.0


def test_types_that_differ_between_files_are_both_shown(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"x": pa.array([1, 2], pa.int8())})
    write(tmp_path / "b.parquet", {"x": pa.array([0.5, 2.5])})
    column = by_name(inspect(str(tmp_path)))["x"]
    assert (column["type"], column["min"], column["max"]) == ("int8 / double", 0.5, 2.5)


def test_columns_behind_nested_ones_keep_their_statistics(tmp_path: Path) -> None:
    columns = {
        "s": pa.array([{"a": 1, "b": [1, 2]}, {"a": 2, "b": []}]),
        "m": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
        "s.a": [10, 20],
        "v": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        "last": [5, 6],
    }
    found = by_name(inspect(str(write(tmp_path / "a.parquet", columns))))
    assert (found["s.a"]["min"], found["s.a"]["max"]) == (10, 20)
    assert (found["last"]["min"], found["last"]["max"]) == (5, 6)
    assert found["v"]["role"] == "embedding"


def test_bounds_of_every_type_can_be_written_as_json(tmp_path: Path) -> None:
    columns = {
        "i": pa.array([2**62, -1]),
        "f": pa.array([float("inf"), 1.0]),
        "d": pa.array([Decimal("1.00"), Decimal("2.00")]),
        "t": pa.array([0, 1_000_001], pa.timestamp("ns", "UTC")),
        "time": pa.array([0, 1_001], pa.time64("ns")),
        "b": pa.array([b"\xff", b"\x00"], pa.binary(1)),
    }
    report = inspect(str(write(tmp_path / "a.parquet", columns)))
    found = by_name(json.loads(json.dumps(report, allow_nan=False)))
    assert found["i"]["max"] == 2**62
    assert found["f"]["max"] == "inf"
    assert found["d"]["max"] == "2.00"
    assert found["t"]["max"] == "1970-01-01T00:00:00.001000+00:00"
    assert found["time"]["max"] == "00:00:00.000001"
    assert found["b"]["max"] == "ff"


def test_memory_follows_the_budget(folder: Path) -> None:
    small = inspect(str(folder))["memory"]
    assert small["budget_bytes"] == 512 << 20
    assert small["encoded_bytes"] < 8 * 200
    assert 550 << 20 < small["fit_bytes"] < 700 << 20
    budget = load_run_file(None, ["runtime.memory_budget=400"]).settings
    tight = inspect(str(folder), settings=budget)["memory"]
    assert 0 < tight["fit_bytes"] < 800 << 20
    assert tight["encoded_bytes"] == small["encoded_bytes"]


def write_sorted(folder: Path, rows: int = 64_000, files: int = 32) -> None:
    label = np.arange(rows) >= rows // 4
    columns = {"x": np.random.default_rng(0).normal(size=(rows, 40)).astype(np.float32), "label_a": label}
    for index, part in enumerate(np.array_split(np.arange(rows), files)):
        x = {f"x{column}": columns["x"][part, column] for column in range(40)}
        other = {"label_b": np.random.default_rng(index).random(len(part)) < 0.2}
        write(folder / f"{index:02d}.parquet", x | {"label_a": label[part]} | other)


def test_labels_sorted_across_units_are_measured_and_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sorted(tmp_path / "sorted")
    tight = load_run_file(None, ["runtime.memory_budget=6MiB", "training.batch_rows=1000"]).settings
    report = inspect(str(tmp_path / "sorted"), ["label_*"], settings=tight)
    mixing = report["mixing"]
    assert (mixing["batch_rows"], mixing["clusters"]) == (1_000, 32)
    assert mixing["slabs"] < 32
    worst = mixing["worst"]
    assert worst["label"] == "label_a"
    assert worst["deviation_ratio"] > 2
    assert mixing["labels"] == {"label_a": worst["deviation_ratio"], "label_b": 1.0}
    assert mixing["median_deviation_ratio"] == (worst["deviation_ratio"] + 1) / 2
    assert report["warnings"][-1] == (
        f"the rows are sorted by label: batch means of 'label_a' deviate {worst['deviation_ratio']:.1f} times as much "
        "as in a random order, which makes training by batches noisy; write them in random order once with "
        "'mlclf shuffle DATA --out DIR', or raise runtime.memory_budget"
    )
    assert (
        f"mixing: labels are sorted across units; batch means deviate {worst['deviation_ratio']:.1f} times as much as "
        f"in a random order (worst label 'label_a', median {mixing['median_deviation_ratio']:.1f}), "
        f"with {mixing['slabs']} slabs in memory"
    ) in summary_lines(report)
    json.dumps(report, allow_nan=False)

    monkeypatch.setattr("mlclf.data.convert.row_groups.GROUP_ROWS", 2_000)
    shuffle(str(tmp_path / "sorted"), tmp_path / "shuffled", memory_budget=64 << 20)
    report = inspect(str(tmp_path / "shuffled"), ["label_*"], settings=tight)
    assert report["mixing"]["worst"]["deviation_ratio"] < 1.05
    assert not report["warnings"]
    line = f"mixing: batches are as good as in a random order, with {report['mixing']['slabs']} slabs in memory"
    assert line in summary_lines(report)


def test_sorted_data_that_the_pool_holds_whole_mixes_well(tmp_path: Path) -> None:
    write_sorted(tmp_path)
    report = inspect(str(tmp_path), ["label_*"])
    assert report["mixing"]["labels"] == {"label_a": 1.0, "label_b": 1.0}
    tight = load_run_file(None, ["runtime.memory_budget=6MiB", "training.batch_rows=all"]).settings
    assert inspect(str(tmp_path), ["label_*"], settings=tight)["mixing"]["worst"]["deviation_ratio"] == 1.0


def test_lines_are_safe_for_a_terminal(tmp_path: Path) -> None:
    evil = "a\x1b[31m\nred\u202e"
    path = write(tmp_path / "a.parquet", {evil: ["\x07" * 3, "b"], "c": [1, 2], "label": [0, 1]})
    lines = summary_lines(inspect(str(path), ["label"]))
    assert all(line.isprintable() for line in lines)
    assert any("a\\x1b[31m\\nred\\u202e" in line for line in lines)


def test_long_names_and_many_labels_are_cut_in_the_lines_only(tmp_path: Path) -> None:
    columns = {"x" * 200: [1.0, 2.0]} | {f"label_{index:03d}": [0, 1] for index in range(40)}
    report = inspect(str(write(tmp_path / "a.parquet", columns)), ["label_*"])
    assert len(report["labels"]) == 40
    lines = summary_lines(report)
    assert "… and 10 labels more" in lines
    assert not any("x" * 61 in line for line in lines)
    assert by_name(report)["x" * 200]["max"] == 2.0


def test_printable_leaves_ordinary_text_alone() -> None:
    assert printable("Größe 値 100 %") == "Größe 値 100 %"
    assert printable("a\tb\u2028\ud800") == "a\\tb\\u2028\\ud800"
