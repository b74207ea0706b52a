"""Histograms as tables: one row for each bin that holds something, and what belongs to all of them in the metadata."""

from __future__ import annotations

import json
import math
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from mlclf.decisions.histograms.counting import MOST_ROWS
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.errors import RunError

FORMAT_VERSION = 2
COLUMNS = ("label", "bin", "positives", "negatives", "least", "greatest")
SQUARES = ("positive_squares", "negative_squares")
METADATA_KEY = b"mlclf_histogram"
_TYPES = dict.fromkeys((*COLUMNS, *SQUARES), pa.float64()) | {
    "label": pa.int32(),
    "bin": pa.int32(),
    "least": pa.float32(),
    "greatest": pa.float32(),
}
_NUMBERS = ("num_bins", "rows", "positive_rows", "least_weight", "greatest_weight")


def table_of(histogram: LabelHistogram) -> pa.Table:
    """Return the non-empty bins, one a row, ordered by label and bin, with the counts of rows in the metadata."""
    nonempty = histogram.nonempty()
    label, bin_index = nonempty.nonzero(as_tuple=True)
    columns = {
        "label": label.int(),
        "bin": bin_index.int(),
        "positives": histogram.counts[label, 1, bin_index],
        "negatives": histogram.counts[label, 0, bin_index],
        "least": histogram.least[nonempty],
        "greatest": histogram.greatest[nonempty],
    }
    if histogram.keeps_squares:
        columns |= {name: histogram.squares[label, 1 - half, bin_index] for half, name in enumerate(SQUARES)}
    least = float(histogram.least_weight)
    document = {
        "num_bins": histogram.num_bins,
        "weighted": histogram.weighted,
        "rows": histogram.rows.tolist(),
        "positive_rows": histogram.positive_rows.tolist(),
        "least_weight": least if math.isfinite(least) else None,
        "greatest_weight": float(histogram.greatest_weight),
    }
    if bool(histogram.weighted_rows.any()):
        document["weighted_squares"] = histogram.weighted_squares.tolist()
        document["weighted_rows"] = histogram.weighted_rows.tolist()
    return _table(columns, document)


def histogram_of(table: pa.Table) -> LabelHistogram:
    """Read what `table_of` returned.

    Raises:
        RunError: The table is not a histogram, of another format version, or damaged.
    """
    columns, document = _columns_of(table)
    histogram = LabelHistogram(len(document["rows"]), document["num_bins"], document["weighted"])
    histogram.rows = torch.tensor(document["rows"], dtype=torch.int64)
    histogram.positive_rows = torch.tensor(document["positive_rows"], dtype=torch.int64)
    if document["least_weight"] is not None:
        histogram.least_weight = torch.tensor(document["least_weight"], dtype=torch.float64)
    histogram.greatest_weight = torch.tensor(document["greatest_weight"], dtype=torch.float64)
    wide = document["least_weight"] is not None and not histogram.all_ones()
    if wide or max(document["rows"], default=0) > MOST_ROWS:
        histogram.widen()
    label, bin_index = columns["label"].long(), columns["bin"].long()
    for half, name in enumerate(("negatives", "positives")):
        histogram.counts[label, half, bin_index] = columns[name].to(histogram.counts.dtype)
    for half, name in enumerate(SQUARES):
        if histogram.keeps_squares:
            histogram.squares[label, 1 - half, bin_index] = columns[name]
    if "weighted_squares" in document:
        for name in ("weighted_squares", "weighted_rows"):
            setattr(histogram, name, torch.tensor(document[name], dtype=torch.float64).view(-1, 2))
    elif wide:  # of an earlier version: as if all weights of a class were the same
        rows = torch.stack([histogram.rows - histogram.positive_rows, histogram.positive_rows], 1).double()
        squares = (histogram.counts.double().sum(2).square() / rows).nan_to_num()
        histogram.weighted_squares, histogram.weighted_rows = squares, rows
    histogram.least[label, bin_index], histogram.greatest[label, bin_index] = columns["least"], columns["greatest"]
    return histogram


def _table(columns: dict[str, Tensor], document: dict[str, Any]) -> pa.Table:
    """Return a table of columns [n], named as COLUMNS and SQUARES, with `document` in its metadata."""
    schema = pa.schema([pa.field(name, _TYPES[name], nullable=False) for name in columns])
    text = json.dumps({"format_version": FORMAT_VERSION, **document})
    arrays = [pa.array(column.cpu().numpy()).cast(_TYPES[name], safe=False) for name, column in columns.items()]
    return pa.table(arrays, schema=schema.with_metadata({METADATA_KEY: text.encode()}))


def _columns_of(table: pa.Table) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `_table` returned, and check it.

    Raises:
        RunError: The table is not a histogram, of another format version, or damaged.
    """
    document = _document_of(table)
    names = [*COLUMNS, *(name for name in SQUARES if name in table.column_names)]
    columns = {name: _column(table, name) for name in names}
    _check_places(columns["label"], columns["bin"], len(document["rows"]), document["num_bins"])
    least, greatest = columns["least"], columns["greatest"]
    bad = ~((least <= greatest) & least.isfinite() & greatest.isfinite())
    for name in names:
        if name in SQUARES or name in ("positives", "negatives"):
            bad |= ~((columns[name] >= 0) & columns[name].isfinite())
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        found = ", ".join(f"{name} {columns[name][row].item()!r}" for name in names[2:])
        raise RunError(
            "a table of histograms must have finite counts of at least 0 and a least logit not above the greatest, "
            f"got {found} (row {row}); the file is damaged"
        )
    return columns, document


def _document_of(table: pa.Table) -> dict[str, Any]:
    raw = (table.schema.metadata or {}).get(METADATA_KEY)
    missing = [name for name in COLUMNS if name not in table.column_names]
    if raw is None or missing:
        raise RunError(
            f"a table of histograms must have the columns {', '.join(COLUMNS)} and the metadata "
            f"{METADATA_KEY.decode()!r}, got the columns {', '.join(table.column_names) or 'none'} "
            f"{'without' if raw is None else 'with'} it; it is another file"
        )
    try:
        document: dict[str, Any] = json.loads(raw)
    except ValueError:
        raise RunError("the metadata of a table of histograms must be JSON; the file is damaged") from None
    found = document.get("format_version")
    if found != FORMAT_VERSION:
        raise RunError(
            f"a table of histograms must have format_version {FORMAT_VERSION}, got {found!r}; "
            "read it with the version of mlclf that wrote it"
        )
    lost = [name for name in _NUMBERS if name not in document]
    if lost or len(document["rows"]) != len(document["positive_rows"]):
        raise RunError(
            f"the metadata of a table of histograms must have {', '.join(_NUMBERS)}, for as many labels, "
            f"got {', '.join(document)}; the file is damaged"
        )
    return document


def _column(table: pa.Table, name: str) -> Tensor:
    column = table.column(name).cast(_TYPES[name])
    return torch.from_numpy(column.combine_chunks().to_numpy(zero_copy_only=False).copy())


def _check_places(label: Tensor, bin_index: Tensor, num_labels: int, num_bins: int) -> None:
    inside = (label >= 0) & (label < num_labels) & (bin_index >= 0) & (bin_index < num_bins)
    if not bool(inside.all()):
        row = int((~inside).nonzero()[0])
        raise RunError(
            f"a table of histograms of {num_labels} labels and {num_bins} bins must not have "
            f"label {int(label[row])}, bin {int(bin_index[row])} (row {row}); the file is damaged"
        )
    rising = (label.long() * num_bins + bin_index).diff() > 0
    if not bool(rising.all()):
        row = int((~rising).nonzero()[0]) + 1
        raise RunError(
            "a table of histograms must be ordered by label and bin, each once, got "
            f"label {int(label[row])}, bin {int(bin_index[row])} (row {row}) out of order; the file is damaged"
        )
