"""Metrics of decisions at other thresholds, from the histograms of rows that are not read again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mlclf.decisions.cells.scores import at_least, scores_of
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.metrics.confusion import DECISION_METRICS, confusion, hamming_loss, mean_by_support
from mlclf.decisions.thresholds.thresholds import Thresholds

_CELL_BYTES = 64


def confusion_at(histogram: LabelHistogram, thresholds: Tensor) -> Tensor:
    """TP, FP, FN, TN of each label at a threshold: [4, K] float64.

    Rows are counted exactly where the threshold falls between bins, or into one whose logits are all the same. Where
    it falls between the least and the greatest logit of a bin nobody knows, and all four are NaN.

    Args:
        histogram: of logits.
        thresholds: [K] float32, of scores; NaN is never reached.
    """
    found = []
    for labels in histogram.label_slices(_CELL_BYTES):
        positives, negatives = histogram.positives[labels], histogram.negatives[labels]
        least, greatest = histogram.ends(labels, slice(0, histogram.num_bins))
        cuts, filled = thresholds[labels][:, None], positives + negatives > 0
        all_reach, some_reach = at_least(scores_of(least), cuts) & filled, at_least(scores_of(greatest), cuts) & filled
        hits, flagged = (positives * all_reach).sum(1), ((positives + negatives) * all_reach).sum(1)
        counts = confusion(flagged, hits, positives.sum(1), (positives + negatives).sum(1))
        found.append(counts.where(~(some_reach & ~all_reach).any(1), math.nan))
    return torch.cat(found, dim=1)


def rejudged(document: Mapping[str, Any], histogram: LabelHistogram, thresholds: Thresholds) -> dict[str, Any]:
    """The document of `metrics.json` with what decisions come to at other thresholds; None where nobody knows.

    Metrics that no threshold changes stay. `subset_accuracy` of several labels looks across the labels of a row, which
    histograms do not; so do thresholds with a limit for each row.

    Args:
        document: metrics of the rows of the histogram, its labels in order.
        histogram: logits of these rows.
        thresholds: those in force.
    """
    counts = confusion_at(histogram, thresholds.thresholds)
    if thresholds.per_row is not None:
        counts = torch.full_like(counts, math.nan)
    known = bool(counts.isfinite().all())
    by_label = {name: metric(counts) for name, metric in DECISION_METRICS.items()}
    pooled = {name: metric(counts.sum(1)) for name, metric in DECISION_METRICS.items()}
    support = counts[0] + counts[2]
    undefined = {name: int(values.isnan().sum()) for name, values in by_label.items()}
    wrong = hamming_loss(counts)
    averages = {
        "macro": {name: values.nanmean() for name, values in by_label.items()},
        "micro": pooled,
        "weighted": {name: mean_by_support(values, support) for name, values in by_label.items()},
        "macro_all": {"f1": by_label["f1"].nan_to_num().mean()},
    }
    labels = {
        name: entry
        | {metric: _number(values[index]) for metric, values in by_label.items()}
        | {"threshold": _number(thresholds.thresholds[index])}
        for index, (name, entry) in enumerate(document["labels"].items())
    }
    changed = {
        average: document[average] | {name: _number(value) if known else None for name, value in values.items()}
        for average, values in averages.items()
        if average in document
    }
    result = {
        **document,
        **changed,
        "hamming_loss": _number(wrong),
        "subset_accuracy": _number(1 - wrong) if len(labels) == 1 else None,
        "undefined": document.get("undefined", {}) | undefined,
        "labels": labels,
    }
    for name in ("intervals", "decisions"):
        result.pop(name, None)
    return result


def _number(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
