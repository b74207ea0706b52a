"""An epoch of one contestant, mlclf itself or a peer, in a process of its own; prints one line of JSON.

    python benchmarks/peers.py NAME FOLDER [--rows N] [--no-step] [--batch-rows B]
    and for mlclf alone: [--epochs E] [--cache DIR] [--budget BYTES] [--features-from FOLDER] [--fused]

FOLDER holds Parquet files of `generated.py`. An epoch is timed from its first batch being asked for to its last step;
imports, and what a contestant learns of the data before it starts, are not part of it (`setup_seconds`). Every PyTorch
contestant trains the same model by the same step. `loss` is the mean over the last steps, to see that it learns.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from generated import LEVELS, TAGS, VOCABULARY, tag_name
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

BATCH_ROWS = 4_096
LAST_STEPS = 20
NOT_INSTALLED = 3
"""Exit code where the contestant's package is missing."""

Rows = tuple[Tensor, ...]
"""Dense inputs [B, D], labels [B, K] and, where rows have them, token ids [n] with offsets [B + 1]."""

Step = Callable[..., Tensor]


@dataclass(frozen=True)
class Options:
    """What a contestant is asked to do; a peer ignores what only mlclf knows."""

    rows: int | None
    step: bool
    batch_rows: int
    epochs: int
    cache: str
    budget: int | None
    features_from: Path | None
    fused: bool


@dataclass(frozen=True)
class Epoch:
    """Rows that were processed, the seconds that took, and the mean loss of the last steps (NaN without steps)."""

    rows: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class Outcome:
    """What a process prints.

    Attributes:
        setup_seconds: time spent on the data before the first epoch.
        figures: whatever else was measured, by name.
    """

    epochs: list[Epoch]
    setup_seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)


def main() -> int:
    arguments = parse_arguments()
    options = {name: value for name, value in vars(arguments).items() if name not in ("name", "folder")}
    try:
        outcome = CONTESTANTS[arguments.name](arguments.folder, Options(**options))
    except ModuleNotFoundError as error:
        print(f"not installed: {error.name}", file=sys.stderr)
        return NOT_INSTALLED
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"name": arguments.name, "peak_bytes": peak} | asdict(outcome)), flush=True)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="An epoch of one contestant.")
    parser.add_argument("name", choices=list(CONTESTANTS), metavar="NAME", help=", ".join(CONTESTANTS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, help="stop after so many rows (default: all)")
    parser.add_argument("--no-step", dest="step", action="store_false", help="load batches only")
    parser.add_argument("--batch-rows", type=int, default=BATCH_ROWS)
    parser.add_argument("--epochs", type=int, default=1, help="epochs of mlclf, in one process")
    parser.add_argument("--cache", default="off", help="folder of mlclf's cache")
    parser.add_argument("--budget", type=int, help="memory budget of mlclf in bytes")
    parser.add_argument("--features-from", type=Path, help="data whose statistics mlclf takes, in place of its own")
    parser.add_argument("--fused", action="store_true", help="mlclf's own loss of a linear layer and a bag of ids")
    return parser.parse_args()


# ---------------------------------------------------------------------------------------------------------- the step


class Head(nn.Module):
    """Logits [B, K] that are linear in dense inputs and in a bag of token ids, from zeros."""

    def __init__(self, num_dense: int, num_labels: int, vocabulary: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_labels, num_dense))
        self.bias = nn.Parameter(torch.zeros(num_labels))
        self.embedding = nn.Parameter(torch.zeros(vocabulary, num_labels)) if vocabulary else None

    def forward(self, dense: Tensor, ids: Tensor | None = None, offsets: Tensor | None = None) -> Tensor:
        """[B, D] float32, [n] int64, [B + 1] int64 → [B, K]."""
        logits = nn.functional.linear(dense, self.weight, self.bias)
        if self.embedding is None:
            return logits
        bag = nn.functional.embedding_bag(
            ids, self.embedding, offsets, mode="sum", sparse=True, include_last_offset=True
        )
        return logits + bag


def training_step(vocabulary: int = 0, linear_loss: Step | None = None) -> Step:
    """A step of SGD on the mean binary cross-entropy; the first one makes the model, from the shapes it sees.

    `linear_loss(dense, weight, bias, labels, embedding, ids, offsets)` takes the place of layers and loss.
    """
    model: Head | None = None
    optimizer: torch.optim.Optimizer | None = None

    def step(dense: Tensor, labels: Tensor, *tokens: Tensor) -> Tensor:
        nonlocal model, optimizer
        if model is None or optimizer is None:
            model = Head(dense.shape[1], labels.shape[1], vocabulary)
            optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        optimizer.zero_grad()
        if linear_loss is not None:
            tables = (model.embedding,) if tokens else ()
            loss = linear_loss(dense, model.weight, model.bias, labels, *tables, *tokens)
        else:
            loss = nn.functional.binary_cross_entropy_with_logits(model(dense, *tokens), labels.float())
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def epoch_of(batches: Iterable[Rows], step: Step | None, rows: int | None) -> Epoch:
    """Go through the batches, or their first `rows` rows, with a step on each.

    Objects made so far are frozen: one look of Python's collector at all that was imported takes 0.2 s, and falls into
    the epoch of some contestants and not of others.
    """
    gc.collect()
    gc.freeze()
    started, seen = time.perf_counter(), 0
    losses: deque[Tensor] = deque(maxlen=LAST_STEPS)  # all of them would hold the heap open between their neighbours
    for dense, labels, *tokens in batches:
        if step is not None:
            losses.append(step(dense, labels, *tokens))
        seen += len(labels)
        if rows is not None and seen >= rows:
            break
    seconds = time.perf_counter() - started
    return Epoch(seen, seconds, float(torch.stack([*losses]).mean()) if losses else float("nan"))


def step_or_none(options: Options, vocabulary: int = 0, linear_loss: Step | None = None) -> Step | None:
    """The step where one is asked for, after one on a model of its own: the first of a process costs a second."""
    if not options.step:
        return None
    training_step(linear_loss=linear_loss)(torch.zeros(1, 1), torch.zeros(1, 1))
    return training_step(vocabulary, linear_loss)


# --------------------------------------------------------------------------------------------------------- ourselves


def our_loader(folder: Path, options: Options) -> Any:
    import mlclf

    keywords: dict[str, Any] = {"batch_rows": options.batch_rows, "seed": 0, "cache": options.cache}
    if options.budget is not None:
        keywords["memory_budget"] = options.budget
    labels = our_labels(folder)
    if options.features_from is not None:
        keywords["features"] = mlclf.ParquetLoader(str(options.features_from), labels=labels, **keywords).features
    return mlclf.ParquetLoader(str(folder), labels=labels, **keywords)


def our_loss(options: Options) -> Step | None:
    if not options.fused:
        return None
    from fused import linear_bce

    return linear_bce


def our_labels(folder: Path) -> list[str]:
    return ["tags"] if "tags" in pq.read_schema(files_of(folder)[0]).names else ["label_*"]


def mlclf_epochs(folder: Path, options: Options) -> Outcome:
    """As many epochs as asked for, in full random order."""
    started = time.perf_counter()
    loader = our_loader(folder, options)
    setup_seconds = time.perf_counter() - started
    step, epochs = step_or_none(options, loader.features.vocabulary_size, our_loss(options)), []
    for epoch in range(options.epochs):
        loader.set_epoch(epoch)
        epochs.append(epoch_of(our_batches(loader), step, options.rows))
    return Outcome(epochs, setup_seconds)


def our_batches(loader: Any) -> Iterator[Rows]:
    for batch in loader:
        if len(batch.ids):
            yield batch.dense, batch.labels, batch.ids, batch.offsets
        else:
            yield batch.dense, batch.labels


def mlclf_mixing(folder: Path, options: Options) -> Outcome:
    """How far batch means of label_0 scatter, as a multiple of what independent rows would give."""
    loader = our_loader(folder, options)
    started, means, rows, positives = time.perf_counter(), [], 0, 0
    for batch in loader:
        column = batch.labels[:, 0]
        count = int(column.sum())
        rows, positives = rows + len(column), positives + count
        if len(column) == options.batch_rows:  # the last batch may be shorter
            means.append(count / len(column))
    seconds = time.perf_counter() - started
    prevalence = positives / rows
    independent = np.sqrt(prevalence * (1 - prevalence) / options.batch_rows)
    figures = {"deviation": float(np.std(means)), "independent": float(independent), "prevalence": prevalence}
    return Outcome([Epoch(rows, seconds, float("nan"))], figures=figures)


# ----------------------------------------------------------------------------------------------- float and bool columns


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def columns_of(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the inputs and of the labels."""
    names = pq.read_schema(files_of(folder)[0]).names
    return [name for name in names if not name.startswith("label_")], [
        name for name in names if name.startswith("label_")
    ]


def pyarrow_scan(folder: Path, options: Options) -> Outcome:
    """Read every row group, two at a time, and drop it: no batches, no step."""
    footers = [(file, pq.read_metadata(file)) for file in files_of(folder)]
    units = [(file, footer, index) for file, footer in footers for index in range(footer.num_row_groups)]

    def rows_of(unit: tuple[Path, pq.FileMetaData, int]) -> int:
        file, footer, index = unit
        reader = pq.ParquetFile(file, metadata=footer, pre_buffer=False)
        return reader.read_row_group(index, use_threads=False).num_rows

    started = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        rows = sum(threads.map(rows_of, units))
    return Outcome([Epoch(rows, time.perf_counter() - started, float("nan"))])


class TabularDataset(IterableDataset[Rows]):
    """What a user writes by hand: batches of Arrow, stacked by column; workers share the files."""

    def __init__(self, folder: Path, batch_rows: int) -> None:
        self.files, self.batch_rows = files_of(folder), batch_rows
        self.inputs, self.labels = columns_of(folder)

    def __iter__(self) -> Iterator[Rows]:
        for batch in arrow_batches(self.files, self.batch_rows):
            yield self.encoded(batch)

    def encoded(self, batch: pa.RecordBatch) -> Rows:
        dense = np.stack([batch.column(name).to_numpy() for name in self.inputs], 1)
        return torch.from_numpy(dense), self.targets(batch)

    def targets(self, batch: pa.RecordBatch) -> Tensor:
        columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in self.labels]
        return torch.from_numpy(np.stack(columns, 1).astype(np.float32))


def arrow_batches(files: Sequence[Path], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The batches of the files, or of a worker's share of them."""
    worker = get_worker_info()
    for file in files if worker is None else files[worker.id :: worker.num_workers]:
        yield from pq.ParquetFile(file).iter_batches(batch_rows)


def handwritten(folder: Path, options: Options, workers: int) -> Outcome:
    batches = DataLoader(TabularDataset(folder, options.batch_rows), batch_size=None, num_workers=workers)
    return Outcome([epoch_of(batches, step_or_none(options), options.rows)])


def torch_dataloader_utils(folder: Path, options: Options, workers: int) -> Outcome:
    from torch_dataloader_utils import StructuredDataset

    inputs, labels = columns_of(folder)
    loader, _ = StructuredDataset.create_dataloader(
        str(folder), format="parquet", batch_size=options.batch_rows, shuffle=True, num_workers=workers
    )
    batches = (stacked(batch, inputs, labels) for batch in loader)
    return Outcome([epoch_of(batches, step_or_none(options), options.rows)])


def hf_datasets(folder: Path, options: Options) -> Outcome:
    from datasets import load_dataset

    inputs, labels = columns_of(folder)
    files = [str(file) for file in files_of(folder)]
    rows = load_dataset("parquet", data_files=files, split="train", streaming=True)
    shuffled = rows.shuffle(buffer_size=10_000, seed=0).with_format("torch")
    batches = (stacked(batch, inputs, labels) for batch in shuffled.iter(options.batch_rows))
    return Outcome([epoch_of(batches, step_or_none(options), options.rows)])


def stacked(batch: dict[str, Tensor], inputs: Sequence[str], labels: Sequence[str]) -> Rows:
    return torch.stack([batch[name] for name in inputs], 1), torch.stack([batch[name] for name in labels], 1)


def scikit_learn(folder: Path, options: Options) -> Outcome:
    """One SGDClassifier a label, each given every batch."""
    from sklearn.linear_model import SGDClassifier
    from sklearn.metrics import log_loss

    dataset = TabularDataset(folder, batch_rows=65_536)
    models = [SGDClassifier(loss="log_loss", random_state=0) for _ in dataset.labels]
    started, rows = time.perf_counter(), 0
    for dense, labels in dataset:
        inputs, targets = dense.numpy(), labels.numpy()
        for index, model in enumerate(models):
            model.partial_fit(inputs, targets[:, index], classes=[0, 1])
        rows += len(inputs)
        if options.rows is not None and rows >= options.rows:
            break
    seconds = time.perf_counter() - started
    losses = [
        log_loss(targets[:, index], model.predict_proba(inputs), labels=[0, 1]) for index, model in enumerate(models)
    ]
    return Outcome([Epoch(rows, seconds, float(np.mean(losses)))])


def vowpal_wabbit(folder: Path, options: Options) -> Outcome:
    """Logistic regression on label_0 alone, read from the cache that a first pass over the text has left."""
    from vowpalwabbit import Workspace

    with tempfile.TemporaryDirectory(prefix="vowpal-wabbit-", dir=folder.parent) as name:
        text, cache = Path(name) / "rows.txt", Path(name) / "rows.cache"
        started = time.perf_counter()
        rows = write_vowpal_text(folder, text, options.rows)
        command = f"--data {text} --cache_file {cache} --loss_function logistic --quiet"
        Workspace(command).finish()
        text.write_text("")  # so that nothing is read but the cache
        setup_seconds = time.perf_counter() - started
        started = time.perf_counter()
        model = Workspace(command)
        seconds = time.perf_counter() - started
        if model.get_weighted_examples() != rows:
            raise RuntimeError(f"{model.get_weighted_examples():,.0f} rows were read from the cache, not {rows:,}")
        loss = model.get_sum_loss() / rows
        model.finish()
    return Outcome([Epoch(rows, seconds, loss)], setup_seconds)


def write_vowpal_text(folder: Path, text: Path, most_rows: int | None) -> int:
    """Write lines such as `1 | f0:0.25 f1:-1.5` for the first rows; return how many."""
    inputs, labels = columns_of(folder)
    rows = 0
    with text.open("w") as lines:
        for batch in arrow_batches(files_of(folder), BATCH_ROWS):
            left = len(batch) if most_rows is None else most_rows - rows
            if left <= 0:
                break
            batch = batch.slice(0, left)
            target = pc.if_else(batch.column(labels[0]), "1 |", "-1 |")
            values = [batch.column(name).cast(pa.string()) for name in inputs]
            pairs = [pc.binary_join_element_wise(name, value, ":") for name, value in zip(inputs, values, strict=True)]
            lines.writelines(f"{line}\n" for line in pc.binary_join_element_wise(target, *pairs, " ").to_pylist())
            rows += len(batch)
    return rows


# ------------------------------------------------------------------------------------------ strings, numbers and nulls


class MixedDataset(TabularDataset):
    """What a user writes by hand: each string looked up in a dictionary, missing numbers filled with the mean.

    Levels, means and deviations come from the first file; a missing or unknown level has an id of its own.
    """

    def __init__(self, folder: Path, batch_rows: int) -> None:
        super().__init__(folder, batch_rows)
        self.strings, self.numbers = self.inputs[: len(LEVELS)], self.inputs[len(LEVELS) :]
        first = pq.read_table(self.files[0], columns=self.inputs)
        self.levels = [sorted(set(first[name].drop_null().to_pylist())) for name in self.strings]
        ends = np.cumsum([len(levels) + 1 for levels in self.levels])
        self.unknown, self.vocabulary = [0, *ends[:-1].tolist()], int(ends[-1])
        self.ids = [
            {level: start + 1 + index for index, level in enumerate(levels)}
            for start, levels in zip(self.unknown, self.levels, strict=True)
        ]
        numbers = np.stack([first[name].to_numpy().astype(np.float64) for name in self.numbers])
        self.means, self.deviations = np.nanmean(numbers, 1), np.nanstd(numbers, 1)

    def encoded(self, batch: pa.RecordBatch) -> Rows:
        numbers = [batch.column(name).to_numpy(zero_copy_only=False) for name in self.numbers]
        dense = (np.stack(numbers, 1) - self.means) / self.deviations
        dense = np.nan_to_num(dense).astype(np.float32)
        ids = np.stack([self.looked_up(batch, column) for column in range(len(self.strings))], 1)
        offsets = torch.arange(0, ids.size + 1, len(self.strings))
        return torch.from_numpy(dense), self.targets(batch), torch.from_numpy(ids.reshape(-1)), offsets

    def looked_up(self, batch: pa.RecordBatch, column: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        known, unknown = self.ids[column], self.unknown[column]
        return np.array([known.get(value, unknown) for value in batch.column(column).to_pylist()], np.int64)


class ArrowMixedDataset(MixedDataset):
    """As a user who knows Arrow's compute functions writes it: no Python object for each value."""

    def looked_up(self, batch: pa.RecordBatch, column: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        found = pc.index_in(batch.column(column), value_set=pa.array(self.levels[column]))
        return pc.fill_null(found, -1).to_numpy().astype(np.int64) + self.unknown[column] + 1


class RowMixedDataset(MixedDataset):
    """As a user writes it who thinks in rows: one Python object for each value of each row."""

    def __iter__(self) -> Iterator[Any]:
        for batch in arrow_batches(self.files, self.batch_rows):
            for row in batch.to_pylist():
                numbers = [row[name] for name in self.numbers]
                dense = [
                    0.0 if value is None else (value - mean) / deviation
                    for value, mean, deviation in zip(numbers, self.means, self.deviations, strict=True)
                ]
                ids = [
                    known.get(row[name], unknown)
                    for name, known, unknown in zip(self.strings, self.ids, self.unknown, strict=True)
                ]
                yield dense, [row[name] for name in self.labels], ids

    @staticmethod
    def collated(rows: Sequence[tuple[list[float], list[bool], list[int]]]) -> Rows:
        dense, labels, ids = (torch.tensor(values) for values in zip(*rows, strict=True))
        return dense.float(), labels, ids.reshape(-1), torch.arange(0, ids.numel() + 1, ids.shape[1])


def row_by_row_mixed(folder: Path, options: Options, workers: int) -> Outcome:
    dataset = RowMixedDataset(folder, options.batch_rows)
    batches = DataLoader(dataset, options.batch_rows, num_workers=workers, collate_fn=dataset.collated)
    return Outcome([epoch_of(batches, step_or_none(options, dataset.vocabulary), options.rows)])


def handwritten_mixed(folder: Path, options: Options, workers: int, kind: type[MixedDataset]) -> Outcome:
    dataset = kind(folder, options.batch_rows)
    batches = DataLoader(dataset, batch_size=None, num_workers=workers)
    return Outcome([epoch_of(batches, step_or_none(options, dataset.vocabulary), options.rows)])


# ------------------------------------------------------------------------------------------------------ lists of tokens


class TaggedDataset(IterableDataset[tuple[list[int], list[int]]]):
    """What a user writes by hand: the tokens and the label numbers of one row after the other."""

    def __init__(self, folder: Path) -> None:
        self.files = files_of(folder)
        self.labels = {tag_name(label): label for label in range(TAGS)}

    def __iter__(self) -> Iterator[tuple[list[int], list[int]]]:
        for batch in arrow_batches(self.files, BATCH_ROWS):
            for tokens, tags in zip(batch.column("tokens").to_pylist(), batch.column("tags").to_pylist(), strict=True):
                yield tokens, [self.labels[tag] for tag in tags]


def collated(rows: Sequence[tuple[list[int], list[int]]]) -> Rows:
    """One batch of the rows: nothing dense, labels of 0 and 1, and the tokens for an EmbeddingBag."""
    labels, ids, offsets = torch.zeros(len(rows), TAGS), [], [0]
    for row, (tokens, tags) in enumerate(rows):
        labels[row, tags] = 1
        ids.extend(tokens)
        offsets.append(len(ids))
    return torch.zeros(len(rows), 0), labels, torch.tensor(ids), torch.tensor(offsets)


def row_by_row(folder: Path, options: Options, workers: int) -> Outcome:
    batches = DataLoader(TaggedDataset(folder), options.batch_rows, num_workers=workers, collate_fn=collated)
    return Outcome([epoch_of(batches, step_or_none(options, VOCABULARY), options.rows)])


CONTESTANTS: dict[str, Callable[[Path, Options], Outcome]] = {
    "mlclf": mlclf_epochs,
    "mlclf-mixing": mlclf_mixing,
    "pyarrow": pyarrow_scan,
    "handwritten-0": partial(handwritten, workers=0),
    "handwritten-2": partial(handwritten, workers=2),
    "torch-dataloader-utils-0": partial(torch_dataloader_utils, workers=0),
    "torch-dataloader-utils-2": partial(torch_dataloader_utils, workers=2),
    "hf-datasets": hf_datasets,
    "scikit-learn": scikit_learn,
    "vowpal-wabbit": vowpal_wabbit,
    "handwritten-mixed-0": partial(handwritten_mixed, workers=0, kind=MixedDataset),
    "handwritten-mixed-2": partial(handwritten_mixed, workers=2, kind=MixedDataset),
    "arrow-mixed-0": partial(handwritten_mixed, workers=0, kind=ArrowMixedDataset),
    "arrow-mixed-2": partial(handwritten_mixed, workers=2, kind=ArrowMixedDataset),
    "row-by-row-mixed-0": partial(row_by_row_mixed, workers=0),
    "row-by-row-mixed-2": partial(row_by_row_mixed, workers=2),
    "row-by-row-0": partial(row_by_row, workers=0),
    "row-by-row-2": partial(row_by_row, workers=2),
}
"""Name → what is run; a number at the end is that of DataLoader workers."""


if __name__ == "__main__":
    sys.exit(main())
