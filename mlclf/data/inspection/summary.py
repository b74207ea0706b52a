"""The report as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlclf.data.inspection.warnings import NOTICED_RATIO
from mlclf.messages import printable

SHOWN_LABELS = 30

LONGEST_TEXT = 60


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the report of `inspect` as lines for people, safe for a terminal whatever the names hold."""
    files, groups, units, memory = report["files"], report["row_groups"], report["units"], report["memory"]
    lines = [
        f"{_count(report['rows'], 'row')} in {_count(files['count'], 'file')}, {_bytes(files['bytes'])}",
        _group_line(groups, units),
        f"compression: {', '.join(report['compression']) or 'unknown'}",
        _checksum_line(files),
        "",
        *_table([("column", "type", "role", "null", "min", "max"), *map(_column_row, report["columns"])]),
    ]
    if report["ignored"]:
        lines += ["", "left out:", *(f"  {item['name']!r}: {item['reason']}" for item in report["ignored"])]
    if "labels" in report:
        inputs = report["inputs"]
        lines += ["", *_label_lines(report["labels"]), ""]
        lines += [f"inputs: {inputs['dense']:,} dense, {inputs['vocabulary']:,} in vocabularies"]
        lines += _mixing_lines(report["mixing"])
    decoded, taken, budget = (_bytes(memory[f"{name}_bytes"]) for name in ("decoded", "fit", "budget"))
    lines += ["", f"memory: {decoded} decoded; a fit takes about {taken} (runtime.memory_budget {budget})"]
    if report["warnings"]:
        lines += ["", "warnings:", *(f"  {warning}" for warning in report["warnings"])]
    return [printable(line) for line in lines]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _group_line(groups: Mapping[str, int], units: Mapping[str, int]) -> str:
    low, high = f"{groups['min_rows']:,}", f"{groups['max_rows']:,}"
    sizes = low if low == high else f"{low} to {high}"
    return f"row groups: {groups['count']:,} of {sizes} rows, read as {_count(units['count'], 'unit')}"


def _checksum_line(files: Mapping[str, Any]) -> str:
    has, without = files["with_page_checksums"], len(files["without_page_checksums"])
    unknown = files["count"] - has - without
    rest = f", unknown in {unknown:,}" if unknown else ""
    if not without:
        return f"page checksums: in {_count(has, 'file')}{rest}"
    return f"page checksums: none in {_count(without, 'file')}, so damage there can go unseen{rest}"


def _column_row(column: Mapping[str, Any]) -> tuple[str, ...]:
    share = column["null_share"]
    return (
        _short(column["name"]),
        _short(column["type"]),
        column["role"],
        "?" if share is None else f"{share:.1%}",
        _short(_number(column["min"])),
        _short(_number(column["max"])),
    )


def _label_lines(labels: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [("label", "positives", "observed", "prevalence")]
    for name, found in list(labels.items())[:SHOWN_LABELS]:
        prevalence = "undefined" if found["prevalence"] is None else f"{found['prevalence']:.4%}"
        rows.append((_short(name), f"{found['positives']:,}", f"{found['observed']:,}", prevalence))
    more = len(labels) - SHOWN_LABELS
    return [*_table(rows), *([f"… and {more:,} labels more"] if more > 0 else [])]


def _mixing_lines(mixing: Mapping[str, Any]) -> Iterator[str]:
    worst, slabs = mixing["worst"], mixing["slabs"]
    if worst is None:
        return
    if worst["deviation_ratio"] < NOTICED_RATIO:
        yield f"mixing: batches are as good as in a random order, with {slabs:,} slabs in memory"
    else:
        yield (
            f"mixing: labels are sorted across units; batch means deviate {worst['deviation_ratio']:.1f} times as much "
            f"as in a random order (worst label {worst['label']!r}, median {mixing['median_deviation_ratio']:.1f}), "
            f"with {slabs:,} slabs in memory"
        )


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    safe = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in safe) for index in range(len(safe[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in safe]


def _number(value: object) -> str:
    if value is None:
        return ""
    return f"{value + 0.0:.6g}" if isinstance(value, float) else str(value)  # + 0.0 takes the sign off a zero


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
