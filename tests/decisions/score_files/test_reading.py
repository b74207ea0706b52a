"""Score files → cells: one answer however scores and labels are written, and a clear error for what cannot be."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
import torch
from made_scores import NAMES, lists, made_scores, probabilities, tags, wide, written

from mlclf.data.parquet.planning import make_plan
from mlclf.decisions.cells.cells import Cells, row_identities, value_identities
from mlclf.decisions.cells.scores import scores_of
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.objectives.table import parse_objective
from mlclf.decisions.score_files.columns import file_logits
from mlclf.decisions.score_files.file_thresholds import in_file_scale
from mlclf.decisions.score_files.pairing import open_score_files
from mlclf.decisions.score_files.reading import ScoreFiles
from mlclf.decisions.tuning.best_cut import best_thresholds
from mlclf.errors import ConfigError, DataError

ROWS = 200


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def opened(data: str, kind: str | None = "logit", **options: Any) -> ScoreFiles:
    label_data = options.pop("label_data", None)
    options.setdefault("scores", ["score_*"])
    options.setdefault("labels", None)
    plan = None if label_data is None else make_plan(label_data)
    return open_score_files(make_plan(data), kind=kind, label_plan=plan, **options)


def cells_of(files: ScoreFiles) -> Cells:
    """All cells in one, those without a mask with one."""
    parts = [rows.cells for rows in files.cells()]

    def joined(name: str, empty: Any = None) -> Any:
        values = [getattr(part, name) for part in parts]
        filled = [torch.ones_like(part.labels, dtype=torch.bool) for part in parts] if name == "mask" else values
        values = [fill if value is None else value for value, fill in zip(values, filled, strict=True)]
        return None if values[0] is None else torch.cat(values)

    return Cells(**{name: joined(name) for name in Cells.__dataclass_fields__})


def assert_cells(found: Cells, logits: np.ndarray, labels: np.ndarray) -> None:
    seen = labels >= 0
    assert found.mask is not None
    assert np.array_equal(found.mask.numpy(), seen)
    assert np.array_equal(found.labels.numpy() == 1, labels == 1)
    assert found.logits.dtype == torch.float32
    assert found.labels.dtype == torch.uint8
    np.testing.assert_allclose(found.logits.numpy(), logits, rtol=0, atol=2e-6)


# ── one answer for every way of writing ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["probability", "logit"])
@pytest.mark.parametrize("hidden", [0.0, 0.2])
@pytest.mark.parametrize("style", ["wide", "list", "fixed list", "large list"])
@pytest.mark.parametrize("label_style", ["columns", "list", "fixed list"])
def test_lists_are_columns(tmp_path: Path, kind: str, hidden: float, style: str, label_style: str) -> None:
    logits, labels = made_scores(ROWS, hidden=hidden)
    scores = logits if kind == "logit" else probabilities(logits)
    table = wide(scores, labels)
    if label_style != "columns":
        kinds = {"list": pa.bool_(), "fixed list": pa.float64()}
        table = table.drop_columns(list(NAMES))
        table = table.append_column("truth", lists(labels, kinds[label_style], fixed=label_style == "fixed list"))
    if style != "wide":
        table = table.drop_columns([f"score_{name}" for name in NAMES])
        made = lists(scores, pa.float32(), fixed=style == "fixed list")
        table = table.append_column("scores", made.cast(pa.large_list(pa.float32())) if style[:5] == "large" else made)
    files = opened(
        written(tmp_path / "s.parquet", table, row_group_size=70),
        kind,
        scores=["score_*"] if style == "wide" else ["scores"],
        labels=(None if style == "wide" else list(NAMES)) if label_style == "columns" else ["truth"],
    )
    assert files.label_names == (NAMES if style == "wide" or label_style == "columns" else ("0", "1", "2"))
    assert_cells(cells_of(files), logits, labels)


@pytest.mark.parametrize(
    "kind", [pa.float64(), pa.float16(), pa.decimal128(20, 12), pa.dictionary(pa.int8(), pa.float32())]
)
def test_scores_of_any_number_type(tmp_path: Path, kind: pa.DataType) -> None:
    values = np.float32([[0.25, 0.5, 0.75]] * 4 + [[0.125, 1, 0]])
    table = wide(values, np.ones((5, 3), np.int8))
    columns = {name: table[name] for name in table.column_names}
    for name in NAMES:
        column = columns[f"score_{name}"]
        columns[f"score_{name}"] = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    found = cells_of(opened(written(tmp_path / "s.parquet", pa.table(columns)), "probability"))
    inside = (values > 0) & (values < 1)
    np.testing.assert_allclose(scores_of(found.logits).numpy()[inside], values[inside], rtol=1e-6)
    assert float(found.logits.max()) == 30
    assert float(found.logits.min()) == -30


def test_tags_are_labels(tmp_path: Path) -> None:
    logits, labels = made_scores(ROWS)
    path = written(tmp_path / "s.parquet", wide(logits, tags=tags(labels)))
    files = opened(path, labels=["tags"])
    assert_cells(cells_of(files), logits, labels)
    assert files.unseen_tags == ROWS
    listed = pa.table({"scores": lists(logits, pa.float32()), "tags": tags(labels)})
    path = written(tmp_path / "l.parquet", listed)
    assert_cells(cells_of(opened(path, scores=["scores"], labels=["tags"], label_names=NAMES)), logits, labels)
    with pytest.raises(
        ConfigError,
        match=exactly("--label-names is needed for tags whose scores are lists: a file with a label in each line"),
    ):
        opened(path, scores=["scores"], labels=["tags"])


def test_a_null_list_of_labels_is_not_observed(tmp_path: Path) -> None:
    table = pa.table(
        {"scores": lists(np.zeros((2, 3), np.float32), pa.float32()), "truth": pa.array([[True, False, None], None])}
    )
    found = cells_of(opened(written(tmp_path / "s.parquet", table), scores=["scores"], labels=["truth"]))
    assert found.mask is not None
    assert found.mask.tolist() == [[True, True, False], [False] * 3]


# ── weights, groups, identities ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("joined", [False, True])
def test_weights_and_groups_from_either_file(tmp_path: Path, joined: bool) -> None:
    logits, labels = made_scores(ROWS, hidden=0.2)
    random = np.random.default_rng(1)
    weights, cells = random.random(ROWS), random.integers(1, 9, (ROWS, 3)).astype(float)
    more = {f"weight_{name}": pa.array(cells[:, k], mask=labels[:, k] < 0) for k, name in enumerate(NAMES)}
    more |= {"w": weights, "site": pa.array([f"site {row % 7}" for row in range(ROWS)])}
    keys = pa.array([f"key {row}" for row in range(ROWS)])
    options: dict[str, Any] = {"weight": "w", "label_weights": ["weight_*"], "group": "site"}
    if joined:
        order = pa.array(random.permutation(ROWS))
        truth = wide(logits, labels, id=keys, **more).drop_columns([f"score_{name}" for name in NAMES]).take(order)
        options |= {"label_data": written(tmp_path / "t.parquet", truth, row_group_size=50), "key": "id"}
        path = written(tmp_path / "s.parquet", wide(logits, id=keys), row_group_size=80)
    else:
        path = written(tmp_path / "s.parquet", wide(logits, labels, **more), row_group_size=80)
    found = cells_of(opened(path, **options))
    assert_cells(found, logits, labels)
    assert found.weights is not None
    assert found.label_weights is not None
    assert np.array_equal(found.weights.numpy(), weights)
    assert np.array_equal(found.label_weights.numpy()[labels >= 0], cells[labels >= 0])
    assert torch.equal(found.identities, value_identities(pa.chunked_array([more["site"]])))


def test_identities_are_row_numbers_or_keys(tmp_path: Path) -> None:
    logits, labels = made_scores(ROWS)
    for part in range(2):
        written(tmp_path / "d" / f"{part}.parquet", wide(logits, labels, id=np.arange(ROWS) + part * ROWS))
    found = cells_of(opened(str(tmp_path / "d")))
    assert torch.equal(found.identities, row_identities(torch.arange(2 * ROWS)))
    found = cells_of(opened(str(tmp_path / "d"), key="id"))
    assert torch.equal(found.identities, value_identities(pa.chunked_array([pa.array(np.arange(2 * ROWS))])))


# ── joins ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("keys", ["integers", "strings", "mixed widths"])
@pytest.mark.parametrize("style", ["columns", "tags", "values"])
def test_joined_labels_are_those_beside(tmp_path: Path, keys: str, style: str) -> None:
    logits, labels = made_scores(ROWS, hidden=0.0 if style == "tags" else 0.2)
    ids = pa.array([f"k{row}" for row in range(ROWS)]) if keys == "strings" else pa.array(np.arange(ROWS))
    columns: dict[str, Any] = {"id": ids.cast(pa.int32()) if keys == "mixed widths" else ids}
    if style == "columns":
        columns |= {name: pa.array(labels[:, k], mask=labels[:, k] < 0) for k, name in enumerate(NAMES)}
    columns |= {"truth": tags(labels)} if style == "tags" else {}
    columns |= {"truth": lists(labels, pa.bool_())} if style == "values" else {}
    order = pa.array(np.random.default_rng(3).permutation(ROWS))
    truth = written(tmp_path / "truth.parquet", pa.table(columns).take(order), row_group_size=37)
    path = written(tmp_path / "s.parquet", wide(logits, id=ids), row_group_size=64)
    files = opened(path, labels=None if style == "columns" else ["truth"], label_data=truth, key="id")
    assert_cells(cells_of(files), logits, labels)
    assert files.notes == []
    assert files.unseen_tags == (ROWS if style == "tags" else 0)


@pytest.mark.parametrize("text", [False, True])
def test_keys_that_do_not_match_are_counted_both_ways(tmp_path: Path, text: bool) -> None:
    logits, labels = made_scores(100)

    def made(values: Any) -> pa.Array:
        return pa.array(
            [None if v is None else f"k{v}" for v in values] if text else list(values),
            pa.string() if text else pa.int64(),
        )

    path = written(tmp_path / "s.parquet", wide(logits, id=made([*range(99), None])))
    ids = made([*range(10, 110 - 1), None])
    table = wide(logits, labels, id=ids).drop_columns([f"score_{name}" for name in NAMES])
    files = opened(path, label_data=written(tmp_path / "t.parquet", table), key="id")
    found = cells_of(files)
    assert_cells(found, logits[10:99], labels[:89])
    mine, theirs = ([repr(f"k{v}") if text else str(v) for v in values] for values in (range(5), range(99, 104)))
    assert files.notes == [
        f"11 rows of scores have no labels by 'id'; left out: {', '.join(mine)} …",
        f"11 rows of labels have no scores by 'id'; left out: {', '.join(theirs)} …",
    ]


def join_of(tmp_path: Path, mine: Any, theirs: Any, **options: Any) -> ScoreFiles:
    logits, _labels = made_scores(len(mine))
    path = written(tmp_path / "s.parquet", wide(logits, id=mine))
    table = wide(*made_scores(len(theirs)), id=theirs).drop_columns([f"score_{name}" for name in NAMES])
    return opened(path, label_data=written(tmp_path / "t.parquet", table), key="id", **options)


def test_keys_there_twice_are_refused(tmp_path: Path) -> None:
    twice = pa.array(["x", "y", "z", "y"])
    with pytest.raises(DataError, match=exactly("--label-data: key 'id' must be distinct, found 'y' more than once")):
        join_of(tmp_path, pa.array(["x"]), twice)
    message = (
        f"{tmp_path}/s.parquet row 3: key 'id' of the scores must be distinct, found 'y' more than once; "
        "keep one row of each key"
    )
    with pytest.raises(DataError, match=exactly(message)):
        cells_of(join_of(tmp_path, twice, pa.array(["x", "y"])))


def test_keys_of_two_kinds_are_refused(tmp_path: Path) -> None:
    message = (
        f"--key: 'id' must be of one kind everywhere, found numbers in {tmp_path}/s.parquet, strings in "
        f"{tmp_path}/t.parquet; cast it where it is written"
    )
    with pytest.raises(ConfigError, match=exactly(message)):
        join_of(tmp_path, pa.array([1, 2]), pa.array(["1", "2"]))
    message = (
        f"--key: 'id' must hold numbers, strings, bytes, booleans, dates or times, found list<element: int64> in "
        f"{tmp_path}/s.parquet"
    )
    with pytest.raises(ConfigError, match=exactly(message)):
        join_of(tmp_path, pa.array([[1], [2]]), pa.array([[1], [2]]))


def test_keys_that_floats_cannot_hold_are_refused(tmp_path: Path) -> None:
    message = (
        "a key that is a double must be below 9,007,199,254,740,992, from which on floats skip integers, found "
        "9007199254740992; write keys as integers or strings"
    )
    with pytest.raises(DataError, match=exactly(message)):
        join_of(tmp_path, pa.array([1, 2]), pa.array([1.0, 2.0**53]))


LARGE = np.arange(2**53 - 2 * ROWS, 2**53 - ROWS)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (pa.array(LARGE), pa.array(LARGE.astype(np.float64))),
        (pa.array(LARGE, pa.uint64()), pa.array([Decimal(int(value)) for value in LARGE], pa.decimal128(20, 2))),
        (pa.array(range(2**64 - ROWS, 2**64), pa.uint64()),
         pa.array([Decimal(value) for value in range(2**64 - ROWS, 2**64)], pa.decimal256(40, 0))),
        (pa.array(range(ROWS), pa.timestamp("s")),
         pa.array([second * 10**6 for second in range(ROWS)], pa.timestamp("us", "Asia/Tokyo"))),
        (pa.array(range(ROWS), pa.date32()), pa.array([day * 86_400_000 for day in range(ROWS)], pa.timestamp("ms"))),
        (pa.array([UUID(int=row).bytes for row in range(ROWS)], pa.uuid()),
         pa.array([UUID(int=row).bytes for row in range(ROWS)], pa.large_binary())),
        (pa.array([f"k{row}" for row in range(ROWS)], pa.string_view()),
         pa.array([f"k{row}".encode() for row in range(ROWS)])),
    ],
    ids=["float64", "decimal", "decimal beyond int64", "instant", "date", "uuid", "text"],
)  # fmt: skip
def test_keys_of_one_value_in_two_types_are_one_key(tmp_path: Path, mine: pa.Array, theirs: pa.Array) -> None:
    files = join_of(tmp_path, mine, theirs)
    assert len(cells_of(files).logits) == ROWS
    assert files.notes == []


def test_labels_beyond_the_budget_are_refused(tmp_path: Path) -> None:
    message = (
        "--label-data: the labels of 90 rows must fit 0 MiB, found at least 0 MiB; raise --memory-budget, name fewer "
        "labels with --labels, keep only rows that have scores, or write the labels beside the scores"
    )
    with pytest.raises(DataError, match=exactly(message)):
        join_of(tmp_path, pa.array(range(90)), pa.array(range(90)), budget_bytes=1000)


def test_no_label_row_at_all_for_a_key(tmp_path: Path) -> None:
    files = join_of(tmp_path, pa.array([1, 2]), pa.array([None, None], pa.int64()))
    assert list(files.cells()) == []
    assert files.notes == [
        "2 rows of scores have no labels by 'id'; left out: 1, 2",
        "2 rows of labels have no scores by 'id'; left out: null …",
    ]


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────────────


def listed_table(rows: list[Any], size: int = 3) -> pa.Table:
    return pa.table({"scores": pa.array(rows, pa.list_(pa.float32())), "truth": pa.array([[1] * size] * len(rows))})


def replaced(name: str, values: Any) -> pa.Table:
    table = wide(*made_scores(20))
    return table.drop_columns([name] if name in table.column_names else []).append_column(name, pa.array(values))


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a probability outside [0, 1]": (
        lambda: replaced("score_b", [0.5] * 15 + [1.5] * 5),
        {"kind": "probability", "scores": ["score_b"]},
        (
            "FILE row group 1 column 'score_b': probabilities must be in [0, 1], found 1.5; if these are logits, say "
            "--score-kind logit"
        ),
    ),
    "a score that is NaN": (
        lambda: replaced("score_b", [0.5] * 19 + [float("nan")]),
        {},
        (
            "FILE row group 1 column 'score_b': scores must be numbers, found 1 null or NaN; drop these rows or score "
            "them again"
        ),
    ),
    "a score that is null though its label is too": (
        lambda: replaced("score_c", [0.5, None] + [0.5] * 18),
        {},
        (
            "FILE row group 0 column 'score_c': scores must be numbers, found 1 null or NaN; drop these rows or score "
            "them again"
        ),
    ),
    "scores that are text": (
        lambda: replaced("score_c", ["x"] * 20),
        {},
        "FILE: column 'score_c' must hold numbers, found string\nmend these files, or name other columns with --scores",
    ),
    "a list of another length": (
        lambda: listed_table([[0.5] * 3] * 14 + [[0.5] * 2]),
        {"scores": ["scores"], "labels": ["truth"]},
        (
            "FILE row 14 column 'scores': a list must have 3 elements, one for each label, found 2; write one for each "
            "label, in the order of the labels"
        ),
    ),
    "a null list of scores": (
        lambda: listed_table([[0.5] * 3, None]),
        {"scores": ["scores"], "labels": ["truth"]},
        (
            "FILE row group 0 column 'scores' element 0: scores must be numbers, found 1 null or NaN; drop these rows "
            "or score them again"
        ),
    ),
    "fewer labels than scores": (
        lambda: listed_table([[0.5] * 3] * 3, size=2),
        {"scores": ["scores"], "labels": ["truth"]},
        (
            "FILE row 0 column 'truth': a list must have 3 elements, one for each label, found 2; write one for each "
            "label, in the order of the labels"
        ),
    ),
    "fewer label columns than scores": (
        lambda: listed_table([[0.5] * 3] * 3).append_column("x", pa.array([1, 0, 1])),
        {"scores": ["scores"], "labels": ["x"]},
        "lists of scores must have as many elements as there are labels: 'scores' has 3, there are 1 label columns",
    ),
    "lists and columns of scores": (
        lambda: replaced("score_list", [[0.5]] * 20),
        {},
        "--scores takes score columns or one column of lists, not both: 'score_list' is a list; name it alone",
    ),
    "lists without --labels": (
        lambda: listed_table([[0.5] * 3]),
        {"scores": ["scores"]},
        "--labels is needed where scores are lists: one column of lists, or columns in their order",
    ),
    "a score column of another name": (
        lambda: replaced("p_x", [0.5] * 20),
        {"scores": ["p_*"]},
        "--scores: score columns must be called 'score_X' for label 'X', found 'p_x'; rename them",
    ),
    "a score without a label": (
        lambda: replaced("score_d", [0.5] * 20),
        {},
        (
            "a score column needs its label: FILE has no column 'd'; name the labels with --labels, the scores with "
            "--scores, or other files with --label-data"
        ),
    ),
    "a label without a score": (
        lambda: replaced("d", [1] * 20),
        {"labels": ["a", "d"]},
        "a label needs its score: there is no score column of 'd'; name fewer labels with --labels",
    ),
    "labels that are dates": (
        lambda: replaced("a", pa.array([1] * 20, pa.timestamp("ms"))),
        {},
        (
            "FILE: label 'a' must be bool, numbers or strings, found timestamp[ms]\nmend these files, or name other "
            "columns with --labels"
        ),
    ),
    "weights of cells that are missing": (
        lambda: replaced("weight_a", [1.0] * 20),
        {"label_weights": ["weight_*"]},
        (
            "--label-weights: 'weight_X' belongs to label 'X', found no 'weight_b', 'weight_c' in FILE; write a column "
            "of ones, or name fewer labels with --labels"
        ),
    ),
    "weights of cells below zero": (
        lambda: replaced("weight_a", [1.0] * 19 + [-2.0]),
        {"label_weights": ["weight_*"], "labels": ["a"]},
        (
            "FILE row group 1 column 'weight_a': weights must be 0 or more, found -2.0 in 1 rows where the label is "
            "observed; fill them where the data is written"
        ),
    ),
    "weights below zero": (
        lambda: replaced("w", [1.0] * 19 + [-2.0]),
        {"weight": "w"},
        (
            "FILE row group 1 column 'w': row weights must be 0 or more, found -2.0 in 1 rows; fill or drop them where "
            "the data is written"
        ),
    ),
    "a weight that is text": (
        lambda: replaced("w", ["x"] * 20),
        {"weight": "w"},
        "FILE: column 'w' must hold numbers, found string\nmend these files, or name other columns with --weight",
    ),
    "a missing group": (
        lambda: wide(*made_scores(20)),
        {"group": "site"},
        "--group: column 'site' is not in FILE; check --key, --weight and --group",
    ),
    "another kind than the files say": (
        lambda: wide(*made_scores(20)).replace_schema_metadata({"mlclf_score_kind": "logit"}),
        {"kind": "probability"},
        (
            "--score-kind is 'probability', but FILE says that its scores are 'logit'; leave --score-kind out, or give "
            "other files"
        ),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(tmp_path: Path, case: str) -> None:
    make, options, message = BAD[case]
    path = written(tmp_path / "s.parquet", make(), row_group_size=15)
    with pytest.raises((ConfigError, DataError), match=exactly(message.replace("FILE", path))):
        cells_of(opened(path, **options))


def test_a_file_that_lacks_a_column_is_named(tmp_path: Path) -> None:
    table = wide(*made_scores(20))
    written(tmp_path / "d" / "0.parquet", table)
    other = written(tmp_path / "d" / "1.parquet", table.drop_columns(["score_b", "score_c"]))
    message = (
        f"{other}: column 'score_b' is missing\n{other}: column 'score_c' is missing\n"
        "mend these files, or name other columns with --scores"
    )
    with pytest.raises(DataError, match=exactly(message)):
        opened(str(tmp_path / "d"))


# ── thresholds in the scale of the files ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["probability", "logit"])
@pytest.mark.parametrize("objective", ["f1", "precision:0.9", "recall:0.9", "cost:1,20"])
def test_thresholds_decide_the_rows_as_the_bins_did(kind: str, objective: str) -> None:
    random = np.random.default_rng(5)
    labels = random.random((4000, 6)) < [0.5, 0.3, 0.1, 0.02, 0.5, 0]
    logits = (random.normal([0, -2, -9, -15, 12, 3], 1.5, labels.shape) + 1.5 * labels).astype(np.float32)
    scores = logits if kind == "logit" else probabilities(logits)
    histogram = LabelHistogram(6)
    binned = torch.from_numpy(file_logits(np.ascontiguousarray(scores.T), kind)).t()
    histogram.update(binned, torch.from_numpy(labels))
    thresholds = best_thresholds(histogram, parse_objective(objective))
    expected = scores_of(binned) >= thresholds.thresholds
    scaled = in_file_scale(thresholds, kind)
    found = scores >= scaled.thresholds.numpy()
    tuned = np.array([status != "fallback" for status in thresholds.status])
    assert tuned.sum() >= 4
    assert np.array_equal(found[:, tuned], expected.numpy()[:, tuned])
    assert (scaled.thresholds.numpy()[~tuned] == (0.0 if kind == "logit" else 0.5)).all()
    low, cut = scaled.intervals.numpy().T
    inside = (scores > low) & (scores < cut)
    assert not inside[:, tuned].any()


def test_logits_of_probabilities_never_fall() -> None:
    around = np.float32([1e-30, 1e-12, 1e-5, 0.001, 0.3, 0.5, 0.7, 0.99, 0.9999])
    steps = np.arange(2000)
    values = np.sort((around.view(np.int32)[:, None] + steps).astype(np.int32).view(np.float32).ravel()).clip(max=1)
    logits = file_logits(values[None], "probability")[0]
    assert (np.diff(logits) >= 0).all()
    assert file_logits(np.float32([[0, 1]]), "probability").tolist() == [[-30, 30]]
    assert file_logits(np.float32([[-np.inf, 2, np.inf]]), "logit").tolist() == [[-1e4, 2, 1e4]]
