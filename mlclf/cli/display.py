"""What a person sees while a job runs and when it has ended: progress on stderr, tables as lines of text."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

from mlclf.machine.signals import Stopped, look

T = TypeVar("T")

PLAIN_SECONDS = 5.0
"""Without a terminal, a line of progress is printed this often."""

MAX_LABELS_SHOWN = 20


def shown(steps: Generator[Any, None, T], safe: Callable[[str], str]) -> T:
    """Run a job to its end, show its progress on stderr, and return its result.

    Args:
        steps: yields `Progress`.
        safe: makes text fit for a terminal.
    """
    display = _Bar() if sys.stderr.isatty() else _Lines()
    try:
        while True:
            try:
                step = next(steps)
                _look(steps)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if step.note:
                display.note(safe(step.note))
            elif step.total:
                display.show(safe(step.stage), step.done, step.total, step.unit)
    finally:
        display.close()


def _look(steps: Generator[Any, None, T]) -> None:
    """Where a stop was asked for, let the job make an end where it stands."""
    try:
        look()
    except Stopped as stop:
        steps.throw(stop)


class _Clock:
    """What is done a second, and the time left, of the stage that is shown."""

    def __init__(self) -> None:
        self.stage, self.started, self.first = "", 0.0, 0

    def text(self, stage: str, done: int, total: int, unit: str) -> str:
        now = time.monotonic()
        if stage != self.stage or done < self.first:
            self.stage, self.started, self.first = stage, now, done
        elapsed = now - self.started
        scale, unit = (1 << 20, "MiB") if unit == "bytes" else (1, unit)
        text = f"{done // scale:,} of {total // scale:,} {unit}"
        if elapsed < 0.05 or done <= self.first:
            return text
        rate = (done - self.first) / elapsed
        left = max(0.0, (total - done) / rate)
        return f"{text}, {rate / scale:,.0f} {unit}/s, {_duration(left)} left"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


class _Lines:
    """Plain lines, a few seconds apart, for pipes and logs."""

    def __init__(self) -> None:
        self._clock = _Clock()
        self._last = time.monotonic()

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def show(self, stage: str, done: int, total: int, unit: str) -> None:
        text = self._clock.text(stage, done, total, unit)
        now = time.monotonic()
        if now - self._last >= PLAIN_SECONDS:
            self._last = now
            print(f"{stage}: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing is open."""


class _Bar:
    """A live line on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._clock = _Clock()
        self._console = Console(stderr=True, markup=False, highlight=False)
        text = TextColumn("{task.fields[text]}", markup=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(30), text, console=self._console, transient=True
        )
        self._task = self._progress.add_task("", text="", visible=False)
        self._progress.start()

    def note(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def show(self, stage: str, done: int, total: int, unit: str) -> None:
        text = self._clock.text(stage, done, total, unit)
        self._progress.update(self._task, description=stage, completed=done, total=total, text=text, visible=True)

    def close(self) -> None:
        self._progress.stop()


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
