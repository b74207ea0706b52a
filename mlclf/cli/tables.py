"""Metrics, thresholds and differences of thresholds as tables of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_LABELS_SHOWN = 20


def metrics_table(report: dict[str, Any], what: str) -> list[str]:
    """The metrics document as lines: the summary, then the first labels.

    A single label has no averages, and no metrics that look across labels.
    """
    labels, calibration, ranking = report["labels"], report["calibration"], report["ranking"]
    summary = {
        "log-loss": report["log_loss"],
        "gain": report["gain"],
        "brier": report["brier"],
        "ece": calibration["ece"],
        "observed/expected": calibration["observed_expected"],
    }
    across = {"subset accuracy": report["subset_accuracy"], "hamming loss": report["hamming_loss"]}
    across |= {f"P@{k}": ranking[f"p_at_{k}"] for k in (1, 3, 5)}
    lines = [f"{report['rows']:,} rows ({what}), {report['scored_labels']} of {len(labels)} labels scored"]
    if report.get("decisions") == "nested":
        lines.append("  each tenth of the rows is decided by thresholds that were tuned on the others")
    if report.get("decisions") == "in_sample":
        lines.append("  f1, precision and recall are of the rows that the thresholds were tuned on, and flatter them")
    for values in (summary, across) if len(labels) > 1 else (summary,):
        lines.append("  " + "   ".join(f"{name} {_number(value)}" for name, value in values.items()))
    rows = [("macro", report["macro"]), ("micro", report["micro"])] if len(labels) > 1 else []
    rows += list(labels.items())[:MAX_LABELS_SHOWN]
    width = min(40, max(12, *(len(_short(name)) for name, _ in rows)))
    head = ("auroc", "ap", "f1", "precision", "recall", "f1@0.5", "threshold", "support")
    lines.append(f"  {'':{width}}  " + "  ".join(f"{title:>9}" for title in head))
    for name, row in rows:
        lines.append((f"  {_short(name):{width}}  " + "  ".join(f"{cell:>9}" for cell in _cells(row))).rstrip())
    hidden = len(report["labels"]) - MAX_LABELS_SHOWN
    if hidden > 0:
        lines.append(f"  … and {hidden} labels more")
    if report["undefined_labels"]:
        some = ", ".join(_short(name) for name in report["undefined_labels"][:5])
        lines.append(f"  undefined (one class only): {len(report['undefined_labels'])} labels, such as {some}")
    lines += _interval_lines(report.get("intervals"))
    lines += _slice_lines(report.get("by"))
    return lines


def _interval_lines(intervals: dict[str, Any] | None) -> Iterator[str]:
    """The intervals of the bootstrap, for the averages."""
    if intervals is None:
        return
    for average in ("macro", "micro"):
        known = intervals.get(average) or {}
        shown = (
            (name, known.get(field)) for name, field in (("auroc", "auroc"), ("ap", "average_precision"), ("f1", "f1"))
        )
        texts = [f"{name} {_number(ends[0])} to {_number(ends[1])}" for name, ends in shown if ends]
        if texts:
            yield f"  95% of replicates, {average}: {', '.join(texts)}"


def _slice_lines(by: dict[str, Any] | None) -> Iterator[str]:
    """The averages of the values of a column."""
    if by is None:
        return
    named = [*by["values"].items(), ("(missing)", by["missing"]), ("(other)", by["other"])]
    rows = [(name, document) for name, document in named if document is not None]
    width = min(40, max(12, *(len(_short(name)) for name, _ in rows)))
    head = ("rows", "auroc", "ap", "macro f1", "micro f1")
    yield f"  by {_short(by['column'])}"
    yield f"  {'':{width}}  " + "  ".join(f"{title:>9}" for title in head)
    for name, document in rows:
        macro, micro = document["macro"], document["micro"]
        numbers = [macro["auroc"], macro["average_precision"], macro["f1"], micro["f1"]]
        cells = [f"{document['rows']:,}", *map(_number, numbers)]
        yield f"  {_short(name):{width}}  " + "  ".join(f"{cell:>9}" for cell in cells)


def thresholds_table(document: dict[str, Any]) -> list[str]:
    """The thresholds document as lines."""
    labels = document["labels"]
    width = min(40, max(12, *(len(_short(name)) for name in labels)))
    claim = "" if document["confidence"] is None else f", confidence {document['confidence']:g}"
    lines = [f"objective {document['objective']}, method {document['method']}{claim}"]
    lines += [_limit(kind, limit, document["objective"]) for kind, limit in document.get("holds_up_to", {}).items()]
    head = ("threshold", "status", "support", "precision", "recall", "f1")
    lines.append(f"  {'label':{width}}  " + "  ".join(f"{title:>12}" for title in head))
    for name, entry in list(labels.items())[:MAX_LABELS_SHOWN]:
        cells = [_number(entry["threshold"]), entry["status"], f"{entry['support']:,}"]
        cells += [_number(entry[field]) for field in ("precision", "recall", "f1")]
        lines.append(f"  {_short(name):{width}}  " + "  ".join(f"{cell:>12}" for cell in cells) + _best(entry))
    if len(labels) > MAX_LABELS_SHOWN:
        lines.append(f"  … and {len(labels) - MAX_LABELS_SHOWN} labels more")
    return lines


def _limit(kind: str, limit: float, objective: str) -> str:
    """What a claim supposes of rows that were not seen."""
    if kind == "weight":
        return f"the claim holds where no row weighs more than {limit:g}, the most that was seen"
    counted = {"precision": "flagged ", "recall": "positive ", "fpr": "negative "}.get(objective.split(":")[0], "")
    return f"the claim holds where no cluster has more than {limit:g} {counted}rows by weight, the most that was seen"


def _best(entry: dict[str, Any]) -> str:
    """What a label can hold at the same confidence that cannot hold what was asked."""
    best = entry.get("best")
    if best is None:
        return ""
    name = next(field for field in ("precision", "recall", "fpr") if field in best)
    return f"  can hold {name} {_number(best[name])} at {_number(best['threshold'])}"


def diff_table(document: dict[str, Any]) -> list[str]:
    """The document of `diff` as lines: the sums, then the labels that change most."""
    labels = document["labels"]
    cells, rows = document["rows"] * len(labels), document["rows"]
    lines = [f"{document['changed']:,} of {cells:,} decisions change ({document['share']:.4%})"]
    lines[0] += f", in {document['changed_rows']:,} of {rows:,} rows"
    order = sorted(labels, key=lambda name: -labels[name]["share"])
    width = min(40, max(12, *(len(_short(name)) for name in labels)))
    head = ("from", "to", "on to off", "off to on", "share")
    lines.append(f"  {'label':{width}}  " + "  ".join(f"{title:>10}" for title in head))
    for name in order[:MAX_LABELS_SHOWN]:
        entry = labels[name]
        cells = [_number(cut) for cut in entry["thresholds"]]
        cells += [f"{entry['on_to_off']:,}", f"{entry['off_to_on']:,}", f"{entry['share']:.4%}"]
        lines.append(f"  {_short(name):{width}}  " + "  ".join(f"{cell:>10}" for cell in cells))
    if len(labels) > MAX_LABELS_SHOWN:
        lines.append(f"  … and {len(labels) - MAX_LABELS_SHOWN} labels more")
    for side in ("a", "b"):
        only = document[f"only_in_{side}"]
        if only:
            some = ", ".join(_short(name) for name in only[:5])
            lines.append(f"  only in {side.upper()}: {len(only):,} labels, such as {some}")
    return lines


def _cells(row: dict[str, Any]) -> list[str]:
    fields = ("auroc", "average_precision", "f1", "precision", "recall", "f1_at_half", "threshold")
    support = row.get("support")
    return [_number(row.get(field)) if field in row else "" for field in fields] + [
        "" if support is None else f"{support:,}"
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _short(name: str) -> str:
    text = name.encode("unicode_escape").decode() if not name.isprintable() else name
    return text if len(text) <= 40 else text[:37] + "…"
