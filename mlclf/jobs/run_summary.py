"""What `inspect` says of a run: what made it, what it chose, and how it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlclf.errors import ConfigError
from mlclf.names import Names, names_of
from mlclf.run_folder import FORMAT_VERSION, RunFolder

MOST_FILES = 5
MOST_L2 = 5


def inspect_run(path: str | Path, labels: Names = ()) -> dict[str, Any]:
    """What made a run, as values that JSON can hold: its record, its thresholds' objective and its metrics.

    Args:
        path: the run folder; the hash of every file is checked.
        labels: none; a run has its own.

    Raises:
        ConfigError: labels are given.
        RunError: there is no finished run, or a file has changed.
    """
    if names_of(labels, "labels"):
        raise ConfigError(f"--labels goes with data, and {path} is a run, whose labels are known; leave it out")
    folder, manifest = RunFolder(Path(path)).opened()
    training = manifest.get("training", {})
    record = folder.read_record() or _record_of_before(folder, training)
    names = folder.read_schema().label_names
    thresholds = folder.read_thresholds(names)
    return {
        **record,
        "run": str(path),
        "thresholds": {name: getattr(thresholds, name) for name in ("objective", "method", "confidence")},
        "metrics": folder.read_metrics(names),
    }


def _record_of_before(folder: RunFolder, training: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run written by a version that kept none: null where nothing is known."""
    unknown = dict.fromkeys(("version", "created", "command", "l2", "knots"))
    files = [{"path": name, "bytes": size, "rows": None} for name, size, *_ in training.get("files", [])]
    return unknown | {
        "format_version": FORMAT_VERSION,
        "data": files,
        "rows": training.get("rows"),
        "labels": list(folder.read_schema().label_names),
        "solver": training.get("algorithm"),
        "settings": folder.read_settings().model_dump(mode="json"),
    }


def run_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report of `inspect_run` as lines for people."""
    if report["created"] is None:
        yield f"{report['run']}: a run of before runs said what made them"
    else:
        yield f"{report['run']}: written by mlclf {report['version']} at {report['created']}"
        yield f"made by: {report['command']}"
    rows, labels, data = report["rows"], report["labels"], report["data"]
    yield f"{_count(rows)} rows of {_count(len(data))} file(s), {_count(len(labels))} label(s)"
    for file in data[:MOST_FILES]:
        yield f"  {file['path']}: {_count(file['rows'])} rows, {_count(file['bytes'])} bytes"
    if len(data) > MOST_FILES:
        yield f"  … and {_count(len(data) - MOST_FILES)} files more"
    yield f"solver: {report['solver'] or 'unknown'}; l2: {_l2(report['l2'])}"
    if report["knots"] is not None:
        bent = [f"{name!r} ({len(knots)})" for name, knots in report["knots"].items()]
        yield f"knots: {', '.join(bent) if bent else 'none'}"
    objective, confidence = report["thresholds"]["objective"], report["thresholds"]["confidence"]
    claim = "" if confidence is None else f", confidence {confidence:g}"
    yield f"thresholds: {objective}, method {report['thresholds']['method']}{claim}"


def _count(number: int | None) -> str:
    return "unknown many" if number is None else f"{number:,}"


def _l2(value: float | Mapping[str, float] | None) -> str:
    if value is None:
        return "unknown"
    if not isinstance(value, Mapping):
        return f"{value:.6g}"
    some = ", ".join(f"{name!r} {l2:.3g}" for name, l2 in list(value.items())[:MOST_L2])
    return f"{min(value.values()):.3g} to {max(value.values()):.3g} by label ({some}{', …' * (len(value) > MOST_L2)})"
