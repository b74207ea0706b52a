"""Logs in the run folder: one line an epoch in `log.jsonl`, one line for every 50th step in `steps.jsonl`."""

from __future__ import annotations

import math

from mlclf.files import append_line, parsed_json, write_bytes, write_text
from mlclf.run_folder import RunFolder, log_line
from mlclf.training.mini_batch.loop import StepRecord


class TrainingLog:
    """Appends to both logs, through all trainings of a fit.

    Attributes:
        lines: those of `log.jsonl` so far.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.epochs, self.steps = folder.file("log.jsonl"), folder.file("steps.jsonl")
        self.lines: list[str] = []

    def add_epoch(self, line: str) -> None:
        """Append an `epoch_line`."""
        self.lines.append(line)
        append_line(self.epochs, line)

    def add_step(self, epoch: int, record: StepRecord) -> None:
        """Append the line of a step."""
        line = {"epoch": epoch, "step": record.step, "rows": record.rows, "loss": record.loss}
        append_line(self.steps, log_line(line))

    def rewrite(self, lines: list[str]) -> None:
        """Replace `log.jsonl` by these lines."""
        self.lines = lines
        write_text(self.epochs, "".join(f"{line}\n" for line in lines))

    def cut_steps(self, epoch: int, step: int) -> None:
        """Remove the steps after one of an epoch: a resumed training takes them again."""
        if not self.steps.exists():
            return
        kept: dict[tuple[int, int], bytes] = {}
        for line in self.steps.read_bytes().split(b"\n"):  # lines that are torn or damaged are lost
            try:
                record = parsed_json(line)
                place = int(record["epoch"]), int(record["step"])
            except (ValueError, LookupError, TypeError):
                continue
            if place[0] < epoch or (place[0] == epoch and place[1] <= step):
                kept.setdefault(place, line)
        write_bytes(self.steps, b"".join(line + b"\n" for line in kept.values()))


def epoch_line(epoch: int, step: int, rows: int, seconds: float, train: float, valid: float) -> str:
    """The line of an epoch in `log.jsonl`; a loss that is NaN is written as null."""
    record = {
        "epoch": epoch,
        "step": step,
        "rows": rows,
        "seconds": round(seconds, 6),
        "train_loss": train if math.isfinite(train) else None,
        "valid_loss": valid if math.isfinite(valid) else None,
    }
    return log_line(record)
