"""ParquetLoader: batches of a Parquet data set for a training loop of one's own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mlclf.config.settings import Settings
from mlclf.data.batch import Batch
from mlclf.data.features.encoder import FeatureEncoder
from mlclf.data.features.fitted_column import EncodingOptions
from mlclf.data.labels.label_encoder import Labels, make_labels
from mlclf.data.parquet.columns_for_polars import with_columns_for_polars
from mlclf.data.parquet.content import Contents
from mlclf.data.parquet.decoding import decode_unit
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.parquet.spans import SPAN_ROWS
from mlclf.data.passes.partial_passes import corrupt_units, count_rows, matching_units
from mlclf.data.passes.statistics import fit_statistics
from mlclf.data.sampling.census import Census
from mlclf.data.sampling.selection import Selection
from mlclf.data.sampling.splits import Split
from mlclf.data.schema.agreement import check_shards
from mlclf.data.schema.finding import find_schema
from mlclf.data.schema.schema import Schema
from mlclf.data.streaming.batch_order import BatchOrder
from mlclf.data.streaming.batch_stream import BatchStream, FileRows
from mlclf.data.streaming.epoch import Reading
from mlclf.data.streaming.memory_budget import pool_of_rows
from mlclf.data.streaming.row_encoder import RowEncoder
from mlclf.data.streaming.slab_cache import open_cache
from mlclf.data.where.condition import Where, parse_where
from mlclf.data.where.row_groups import check_where
from mlclf.errors import ConfigError
from mlclf.names import Names, names_of
from mlclf.progress import drain


@dataclass(frozen=True)
class FittedFeatures:
    """Roles, scales and vocabularies fitted on training data, with which other loaders encode the same columns.

    Attributes:
        schema: roles of the columns.
        inputs: the fitted encoder: means, scales, linear splines and vocabularies.
        label_names: [K], in the order of `Batch.labels`.
    """

    schema: Schema
    inputs: FeatureEncoder
    label_names: tuple[str, ...]

    @property
    def num_dense(self) -> int:
        """D: width of `Batch.dense`."""
        return self.inputs.num_dense

    @property
    def vocabulary_size(self) -> int:
        """V: every id of `Batch.ids` is below it."""
        return self.inputs.vocabulary_size


class ParquetLoader:
    """Shuffled batches of Parquet data larger than memory, the same whatever the number of threads and ranks.

    Every row comes once an epoch. Rows are mixed across the whole data set: each batch is drawn from many row groups
    at once, in an order fixed by (data, seed, epoch, memory budget). Labels are encoded as `fit` does: bool, 0/1, −1/1
    or words of known pairs, nulls masked; or one list column of tags. Numbers are standardized, missing ones become
    the mean with an indicator beside them; strings, lists of tokens and text become ids for an ``nn.EmbeddingBag``.

    Attributes:
        features: the fitted features; pass them to another loader so that it encodes validation data in the same way.
        set_aside: what `on_corrupt="skip"` left out: (file and row groups, rows, reason).
    """

    def __init__(
        self,
        data: Names,
        labels: Names = (),
        batch_rows: int = 4096,
        seed: int = 0,
        features: FittedFeatures | None = None,
        *,
        columns: Names = (),
        exclude: Names = (),
        weight: str | None = None,
        where: str | None = None,
        shuffle: bool = True,
        memory_budget: int = 512 << 20,
        threads: int | None = None,
        cache: str = "off",
        on_corrupt: str = "error",
        rank: int = 0,
        world_size: int = 1,
        settings: Settings | None = None,
    ) -> None:
        """Read the footers and, unless `features` are given, every row once.

        Args:
            data: files, folders, globs or URIs.
            labels: label columns or globs, or one list column of tags; not needed with `features`.
            batch_rows: B, of all ranks together.
            features: what another loader has fitted (its `features`); names of columns go to `columns`.
            columns, exclude: columns or globs that are, or are not, inputs; the default is every other column.
            weight: column of row weights; without it every weight is 1.
            where: SQL condition that a row must satisfy, such as ``"age >= 18 AND country IN ('de', 'fr')"``.
            shuffle: False keeps the order of the files.
            memory_budget: bytes that decoding and the pool of rows may take.
            threads: decode threads; the default is one a core.
            cache: a folder for encoded rows, which later epochs read instead of the files; or "off".
            on_corrupt: "skip" sets damaged row groups aside, "error" refuses them.
            rank, world_size: of `torch.distributed`; every rank gives as many batches, of as many rows.
            settings: how columns become inputs and what the values of labels mean; None for the defaults.

        Raises:
            ConfigError: an argument is out of range, or a column does not exist.
            DataError: the data cannot be read, or a column holds values that its role does not allow.
        """
        settings = settings or Settings()
        if batch_rows < 1:
            raise ConfigError(f"batch_rows must be 1 or more, got {batch_rows}")
        if on_corrupt not in ("error", "skip"):
            raise ConfigError(f"on_corrupt must be 'error' or 'skip', got {on_corrupt!r}")
        skip = on_corrupt == "skip"
        threads = threads or min(os.cpu_count() or 1, 16)
        condition = None if where is None else parse_where(where)
        plan = _plan(data, features, condition, skip)
        if features is None:
            schema = find_schema(
                plan,
                names_of(labels, "labels"),
                features=names_of(columns, "features"),
                exclude=names_of(exclude, "exclude"),
                weight=weight,
                roles=settings.features.roles,
                label_lists=settings.data.label_lists,
            )
            found = _fitted(plan, schema, settings, condition, skip, threads, memory_budget)
        else:
            schema = replace(features.schema.without(features.inputs.unused), weight=weight)
            check_shards(plan, schema)
            found = _reused(plan, schema, settings, condition, skip, threads, memory_budget, features)
        self.features = FittedFeatures(schema, found.encoder.features, found.label_names)
        self.set_aside = found.plan.set_aside
        num_columns = len(found.encoder.columns)
        shape = pool_of_rows(found.plan, found.row_bytes, found.decoded_row_bytes, num_columns, memory_budget)
        selection = Selection(Split(), census=found.census, where=condition)
        order = BatchOrder(
            found.plan, selection, shape, batch_rows, seed, shuffle=shuffle, rank=rank, world_size=world_size
        )
        slabs = None
        if cache != "off":
            contents = found.contents or _contents(found, condition, threads)
            slabs = open_cache(Path(cache), found.plan, contents, found.encoder, condition)
        rows = FileRows(Reading(found.encoder, slabs, skip, threads))
        rows.touch_memory(order)
        self._stream = BatchStream(order, rows)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the K labels, in the order of `Batch.labels`."""
        return self.features.label_names

    @property
    def num_rows(self) -> int:
        """Rows of an epoch, over all ranks."""
        return self._stream.num_rows

    @property
    def num_bytes(self) -> int:
        """Upper bound of the memory of pool and decoding, in bytes."""
        return self._stream.order.shape.num_bytes

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._stream)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the epoch; once a state was loaded, those after it."""
        return iter(self._stream)

    def set_epoch(self, epoch: int) -> None:
        """Fix the order of the next iteration. Call it before each epoch, or every epoch has the same order."""
        self._stream.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch: a few integers, from which any number of threads and ranks can go on."""
        return self._stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch that `state` was taken at: the next iteration gives the batches that were left.

        Raises:
            CheckpointError: the data or a setting that fixes the order has changed; names which.
        """
        self._stream.load_state_dict(state)

    def as_dataloader(self) -> DataLoader[Batch]:
        """Return the loader as a ``torch.utils.data.DataLoader``, for code such as Lightning Fabric that asks for one.

        It gives whole batches (``batch_size=None``) and has no workers: the threads are this loader's own.
        Accelerate has to be told ``DataLoaderConfiguration(dispatch_batches=False)``, for it would cut each tensor of
        a batch after B elements, of token ids too. With several processes each makes its loader with `rank`.
        """
        return DataLoader(_Batches(self), batch_size=None, num_workers=0)


class _Batches(IterableDataset[Batch]):
    """The batches of a loader as a data set that PyTorch iterates."""

    def __init__(self, loader: ParquetLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Batch]:
        if get_worker_info() is not None:
            raise ConfigError("num_workers must be 0: the loader has threads of its own, and workers would repeat rows")
        return iter(self._loader)

    def __len__(self) -> int:
        return len(self._loader)

    def set_epoch(self, epoch: int) -> None:
        self._loader.set_epoch(epoch)


class _Found(NamedTuple):
    """What the stream of batches is made from: the rows to read, and how they are encoded."""

    plan: Plan
    encoder: RowEncoder
    label_names: tuple[str, ...]
    census: Census | None
    row_bytes: float
    decoded_row_bytes: float
    contents: Sequence[str] = ()


def _contents(found: _Found, where: Where | None, threads: int) -> list[str]:
    """Digests of files that no pass has read yet."""
    contents = Contents(found.plan, _columns(found.encoder.schema, where))
    contents.add_all(matching_units(found.plan, where), threads)
    return contents.of_files()


def _plan(data: Names, features: FittedFeatures | None, condition: Where | None, skip_corrupt: bool) -> Plan:
    """The plan of the data, with the types of folders' columns that the features were fitted with."""
    plan = make_plan(names_of(data), skip_corrupt=skip_corrupt)
    if features is not None:
        plan = plan.with_folder_types(features.inputs.folder_types)
    check_where(plan, condition)
    return plan


def _fitted(
    plan: Plan, schema: Schema, settings: Settings, where: Where | None, skip_corrupt: bool, threads: int, budget: int
) -> _Found:
    """Fit the features in one pass over all rows."""
    statistics = drain(
        fit_statistics(
            with_columns_for_polars(plan, _columns(schema, where), budget),
            schema,
            Split(),
            label_values=settings.data.label_values,
            options=EncodingOptions.of(settings.features),
            threads=threads,
            where=where,
            skip_corrupt=skip_corrupt,
        )
    )
    names = statistics.label_names
    encoder = _encoder(schema, statistics.features, statistics.labels, len(names), where)
    sizes = statistics.row_bytes, statistics.decoded_row_bytes
    return _Found(statistics.plan, encoder, names, statistics.census, *sizes, statistics.contents)


def _reused(
    plan: Plan,
    schema: Schema,
    settings: Settings,
    where: Where | None,
    skip_corrupt: bool,
    threads: int,
    budget: int,
    features: FittedFeatures,
) -> _Found:
    """Take features that were fitted before; sizes of rows are those of a sample."""
    columns = _columns(schema, where)
    plan = with_columns_for_polars(plan, columns, budget)
    if skip_corrupt:
        plan = plan.without(corrupt_units(plan, columns, threads))
    census = None if where is None else count_rows(plan, Split(), where, threads)
    names = features.label_names
    labels = make_labels(schema, settings.data.label_values, names)
    encoder = _encoder(schema, features.inputs, labels, len(names), where)
    unit = max(plan.units, key=lambda unit: unit.row_bytes)
    _, table = next(decode_unit(plan, unit, encoder.columns, SPAN_ROWS))
    sizes = encoder.row_bytes(table, plan.place(unit)), table.nbytes / table.num_rows
    features.inputs.counted()
    return _Found(plan, encoder, names, census, *sizes)


def _encoder(
    schema: Schema, features: FeatureEncoder, labels: Labels, num_labels: int, where: Where | None
) -> RowEncoder:
    return RowEncoder(schema, features, labels, num_labels, Split(), schema.weight, numbered=where is not None)


def _columns(schema: Schema, where: Where | None) -> list[str]:
    """Columns that are read."""
    names = [*schema.feature_columns, *schema.labels, schema.weight, *(where.columns if where else ())]
    return [name for name in dict.fromkeys(names) if name is not None]
