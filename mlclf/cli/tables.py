"""Metrics, thresholds and differences of thresholds as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mlclf.messages import cut

MAX_LABELS_SHOWN = 20
MOST_NAME = 40
"""Characters of a name."""


def metrics_lines(report: Mapping[str, Any] | None, what: str) -> Iterator[str]:
    """The metrics document: the summary, then the first labels.

    A single label has no averages, and no metrics that look across labels.
    """
    if report is None:
        yield "no rows were held out: no metrics; thresholds are 0.5"
        return
    labels, calibration, ranking = report["labels"], report["calibration"], report["ranking"]
    summary = {name: report[name.replace("-", "_")] for name in ("log-loss", "gain", "brier")}
    summary |= {"ece": calibration["ece"], "observed/expected": calibration["observed_expected"]}
    across = {"subset accuracy": report["subset_accuracy"], "hamming loss": report["hamming_loss"]}
    across |= {f"P@{k}": ranking[f"p_at_{k}"] for k in (1, 3, 5)}
    yield f"{report['rows']:,} rows ({what}), {report['scored_labels']} of {len(labels)} labels scored"
    if report.get("decisions") == "nested":
        yield "  each tenth of the rows is decided by thresholds that were tuned on the others"
    if report.get("decisions") == "in_sample":
        yield "  f1, precision and recall are of the rows that the thresholds were tuned on, and flatter them"
    for values in (summary, across) if len(labels) > 1 else (summary,):
        yield "  " + "   ".join(f"{name} {_number(value)}" for name, value in values.items())
    rows = [(name, report[name]) for name in ("macro", "micro")] if len(labels) > 1 else []
    rows += list(labels.items())[:MAX_LABELS_SHOWN]
    head = ("auroc", "ap", "f1", "precision", "recall", "f1@0.5", "threshold", "support")
    yield from _table("", head, [(name, _metric_cells(row)) for name, row in rows], 9)
    yield from _more(labels)
    if report["undefined_labels"]:
        undefined = report["undefined_labels"]
        yield f"  undefined (one class only): {len(undefined)} labels, such as {_first(undefined)}"
    yield from _interval_lines(report.get("intervals"))
    yield from _slice_lines(report.get("by"))


def _metric_cells(row: Mapping[str, Any]) -> list[str]:
    fields = ("auroc", "average_precision", "f1", "precision", "recall", "f1_at_half", "threshold")
    support = row.get("support")
    cells = [_number(row.get(field)) if field in row else "" for field in fields]
    return [*cells, "" if support is None else f"{support:,}"]


def _interval_lines(intervals: Mapping[str, Any] | None) -> Iterator[str]:
    """The intervals of the bootstrap, for the averages."""
    for average in ("macro", "micro") if intervals else ():
        known = (intervals or {}).get(average) or {}
        ends = {
            name: known.get(field) for name, field in (("auroc", "auroc"), ("ap", "average_precision"), ("f1", "f1"))
        }
        texts = [f"{name} {_number(pair[0])} to {_number(pair[1])}" for name, pair in ends.items() if pair]
        if texts:
            yield f"  95% of replicates, {average}: {', '.join(texts)}"


def _slice_lines(by: Mapping[str, Any] | None) -> Iterator[str]:
    """The averages of the values of a column."""
    if by is None:
        return
    named = [*by["values"].items(), ("(missing)", by["missing"]), ("(other)", by["other"])]
    rows = []
    for name, document in named:
        if document is not None:
            macro, micro = document["macro"], document["micro"]
            numbers = [macro["auroc"], macro["average_precision"], macro["f1"], micro["f1"]]
            rows.append((name, [f"{document['rows']:,}", *map(_number, numbers)]))
    yield f"  by {cut(by['column'], MOST_NAME)}"
    yield from _table("", ("rows", "auroc", "ap", "macro f1", "micro f1"), rows, 9)


def thresholds_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """The thresholds document: what was asked, then the first labels."""
    labels = document["labels"]
    claim = "" if document["confidence"] is None else f", confidence {document['confidence']:g}"
    yield f"objective {document['objective']}, method {document['method']}{claim}"
    for kind, limit in document.get("holds_up_to", {}).items():
        yield _limit(kind, limit, document["objective"])
    rows = []
    for name, entry in list(labels.items())[:MAX_LABELS_SHOWN]:
        cells = [_number(entry["threshold"]), entry["status"], f"{entry['support']:,}"]
        cells += [_number(entry[field]) for field in ("precision", "recall", "f1")]
        rows.append((name, [*cells[:-1], f"{cells[-1]:>12}" + _best(entry)]))
    head = ("threshold", "status", "support", "precision", "recall", "f1")
    yield from _table("label", head, rows, 12, labels)
    yield from _more(labels)


def _limit(kind: str, limit: float, objective: str) -> str:
    """The condition under which a claim of confidence holds for new rows."""
    if kind == "weight":
        return f"the claim holds where no row weighs more than {limit:g}, the most that was seen"
    from mlclf.decisions.objectives.table import parse_objective  # brings torch

    rows = f"{parse_objective(objective).about} rows".lstrip()
    return f"the claim holds where no cluster has more than {limit:g} {rows} by weight, the most that was seen"


def _best(entry: Mapping[str, Any]) -> str:
    """The best value that a label can guarantee where the requested one is unattainable."""
    best = entry.get("best")
    if best is None:
        return ""
    name = next(field for field in best if field not in ("threshold", "flagged"))
    return f"  can hold {name} {_number(best[name])} at {_number(best['threshold'])}"


def diff_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """The document of `diff`: the sums, then the labels that change most."""
    labels, rows = document["labels"], document["rows"]
    changed = f"{document['changed']:,} of {rows * len(labels):,} decisions change ({document['share']:.4%})"
    yield f"{changed}, in {document['changed_rows']:,} of {rows:,} rows"
    cells = []
    for name, entry in sorted(labels.items(), key=lambda item: -item[1]["share"])[:MAX_LABELS_SHOWN]:
        counts = [f"{entry['on_to_off']:,}", f"{entry['off_to_on']:,}", f"{entry['share']:.4%}"]
        cells.append((name, [*map(_number, entry["thresholds"]), *counts]))
    yield from _table("label", ("from", "to", "on to off", "off to on", "share"), cells, 10, labels)
    yield from _more(labels)
    for side in ("a", "b"):
        only = document[f"only_in_{side}"]
        if only:
            yield f"  only in {side.upper()}: {len(only):,} labels, such as {_first(only)}"


def _table(
    first: str, head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], cell: int, names: Iterable[str] = ()
) -> Iterator[str]:
    """Lines of a table: names at the left, cells right-aligned; `names` widen the first column, too."""
    width = max(12, *(len(cut(name, MOST_NAME)) for name in [*names, *(name for name, _ in rows)]))
    for name, cells in [(first, head), *rows]:
        yield (f"  {cut(name, MOST_NAME):{width}}  " + "  ".join(f"{text:>{cell}}" for text in cells)).rstrip()


def _more(labels: Mapping[str, Any]) -> Iterator[str]:
    if len(labels) > MAX_LABELS_SHOWN:
        yield f"  … and {len(labels) - MAX_LABELS_SHOWN} labels more"


def _first(names: Sequence[str]) -> str:
    return ", ".join(cut(name, MOST_NAME) for name in names[:5])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
