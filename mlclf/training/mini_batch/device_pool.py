"""DevicePool: every encoded row in the memory of the device, where the batches of each epoch are gathered."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlclf.data.batch import Batch, TokenIds, padded
from mlclf.data.labels.label_columns import UNOBSERVED
from mlclf.data.parquet.spans import Span
from mlclf.data.streaming.batch_order import BatchOrder
from mlclf.data.streaming.slab import RowLayout

SHARE_OF_FREE = 0.5
"""At most this much of a device's free memory is taken: the model, its optimizer and the batches need the rest."""

HOST_ROW_BYTES = 22
"""What a row takes on the host: number, part, group, the number of its ids, whether all its labels are observed."""

BATCHES_PLACED = 32
"""Batches whose places in the pool are worked out, and copied to the device, at a time."""

NOTHING = np.zeros(0, np.int64)


class Placed(NamedTuple):
    """The rows of a batch, before they are gathered.

    Attributes:
        places: [n] int64, where its rows are in the pool.
        num_rows: rows of the batch, with those of weight 0 that fill it up.
    """

    places: NDArray[np.int64]
    num_rows: int


class DevicePool:
    """Encoded rows on a device, in the order of their plan.

    It gives the batches that a stream would read, in the same order. Which rows they hold is worked out on the host,
    and only their places are copied, many batches at a time; nothing waits for the device.

    Attributes:
        numbers, parts: [N] int64 and int8 on the host, numbers of the rows in the plan and their parts.
        num_bytes: what the rows take on the device.
    """

    def __init__(self, layout: RowLayout, num_rows: int, device: torch.device, *, plan_rows: int | None = None) -> None:
        """Allocate what has a fixed size for a row.

        Args:
            plan_rows: the first so many rows are those that streams draw from; None for all.
        """
        self.device, self.layout = device, layout
        self.plan_rows = num_rows if plan_rows is None else plan_rows
        self.numbers, self.parts = np.zeros(num_rows, np.int64), np.zeros(num_rows, np.int8)
        self._observed = np.ones(num_rows, np.bool_)
        self._groups = np.zeros(num_rows if layout.grouped else 0, np.int64)
        self._lengths = np.zeros(num_rows if layout.num_tokens is None else 0, np.int32)
        self._rows = {
            "dense": torch.empty((num_rows, layout.num_dense), device=device),
            "codes": torch.empty((num_rows, layout.num_labels), dtype=torch.uint8, device=device),
            "weights": torch.empty(num_rows, device=device),
            "parts": torch.empty(num_rows, dtype=torch.int8, device=device),
        }
        if layout.num_tokens is None:
            self._rows["starts"] = torch.empty(num_rows, dtype=torch.int64, device=device)
            self._rows["lengths"] = torch.empty(num_rows, dtype=torch.int32, device=device)
        else:
            self._rows["tokens"] = torch.empty((num_rows, layout.num_tokens), dtype=torch.int32, device=device)
        self._ids: list[Tensor] = []
        self._values: list[Tensor] = []
        self._num_ids = 0
        self.num_rows = 0

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self._rows.values(), *self._ids, *self._values))

    @property
    def peak_bytes(self) -> int:
        """Bytes taken while `close` joins the ids, which then exist twice."""
        return self.num_bytes + sum(tensor.nbytes for tensor in (*self._ids, *self._values))

    def add(self, batch: Batch) -> None:
        """Append the rows of a batch that is on the host."""
        place = slice(self.num_rows, self.num_rows + len(batch))
        self.numbers[place], self.parts[place] = batch.rows.numpy(), batch.parts.numpy()
        if batch.groups is not None:
            self._groups[place] = batch.groups.numpy()
        if batch.label_mask is not None:
            self._observed[place] = batch.label_mask.all(1).numpy()
        moved = batch.to(self.device)
        codes = moved.labels
        if moved.label_mask is not None:
            codes = codes.masked_fill(~moved.label_mask, UNOBSERVED)
        found = {"dense": moved.dense, "codes": codes, "weights": moved.weights, "parts": moved.parts}
        width = self.layout.num_tokens
        if width is None:
            self._lengths[place] = batch.offsets.diff().numpy()
            found |= {"starts": moved.offsets[:-1] + self._num_ids, "lengths": moved.offsets.diff()}
            self._ids.append(moved.ids.int())
            self._values += [] if moved.values is None else [moved.values]
        else:
            found["tokens"] = moved.ids.reshape(len(batch), width)
        for name, rows in found.items():
            self._rows[name][place] = rows
        self._num_ids += len(batch.ids)
        self.num_rows += len(batch)

    def close(self) -> None:
        """Join the ids of all batches, once every row was added."""
        for tensors in filter(None, (self._ids, self._values)):
            tensors[:] = [torch.cat(tensors)]

    def batches(self, order: BatchOrder, skip: int) -> Generator[Batch, None, None]:
        """This rank's batches of an epoch, all but the first `skip`, on the device."""
        placed = islice(self._placed(order), skip, None)
        while ahead := list(islice(placed, BATCHES_PLACED)):
            index = self._moved(np.concatenate([batch.places for batch in ahead]))
            start = 0
            for places, num_rows in ahead:
                yield padded(self._gather(places, index[start : start + len(places)]), num_rows)
                start += len(places)

    def in_order(self, batch_rows: int, parts: Sequence[int] | None = None) -> Iterator[Batch]:
        """The rows of some parts, or all, in the order of the plan."""
        rows = np.arange(self.num_rows)
        if parts is not None:
            rows = rows[np.isin(self.parts, parts)]
        for start in range(0, len(rows), batch_rows):
            index = rows[start : start + batch_rows]
            yield self._gather(index, self._moved(index))

    def _placed(self, order: BatchOrder) -> Iterator[Placed]:
        """The batches of an epoch: the rows of each slot after those of the slot before."""
        places: dict[int, NDArray[np.int64]] = {}
        for rounds in order.batches():
            picks = []
            for step in rounds:
                for load in filter(order.is_mine, step.loads):
                    places[load.slab] = self._drawn(order, load.span)
                for draw in filter(order.is_mine, step.draws):
                    picks.append((draw.slot, places[draw.slab][draw.start : draw.stop]))
                    if draw.last:
                        del places[draw.slab]
            picks.sort(key=itemgetter(0))
            yield Placed(np.concatenate([NOTHING, *(pick for _, pick in picks)]), order.full_rows(rounds))

    def _drawn(self, order: BatchOrder, span: Span) -> NDArray[np.int64]:
        """Places of the rows of a span that are drawn, in the order in which they are."""
        ends = (span.first_row, span.first_row + span.rows)
        first, last = np.searchsorted(self.numbers[: self.plan_rows], ends)
        return order.of_span(np.arange(first, last), self.parts[first:last], span.first_row)

    def _moved(self, index: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(index)
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

    def _gather(self, places: NDArray[np.int64], index: Tensor) -> Batch:
        """The rows at places that are given on the host [n] and on the device [n]."""
        taken = {name: rows.index_select(0, index) for name, rows in self._rows.items()}
        labels, mask = taken["codes"], None
        if not self._observed[places].all():
            mask = labels != UNOBSERVED
            labels = labels * mask
        return Batch(
            taken["dense"],
            *self._tokens(taken, places),
            labels=labels,
            label_mask=mask,
            weights=taken["weights"],
            parts=taken["parts"],
            rows=torch.from_numpy(self.numbers[places]),
            groups=torch.from_numpy(self._groups[places]) if self.layout.grouped else None,
        )

    def _tokens(self, taken: dict[str, Tensor], places: NDArray[np.int64]) -> TokenIds:
        """The ids of rows that were taken."""
        if self.layout.num_tokens is not None:
            tokens = taken["tokens"]
            offsets = torch.arange(len(tokens) + 1, device=self.device) * tokens.shape[1]
            return TokenIds(tokens.reshape(-1).long(), offsets, None)
        total = int(self._lengths[places].sum())  # of what the host knows, so that it need not ask the device
        offsets = torch.nn.functional.pad(taken["lengths"].cumsum(0), (1, 0))
        begins = torch.repeat_interleave(taken["starts"] - offsets[:-1], taken["lengths"], output_size=total)
        where = begins + torch.arange(total, device=self.device)
        values = self._values[0].index_select(0, where) if self._values else None
        return TokenIds(self._ids[0].index_select(0, where).long(), offsets, values)


def room_on(device: torch.device) -> int | None:
    """Bytes that rows may take on a device; None for the CPU, which has them already."""
    return None if device.type == "cpu" else int(torch.cuda.mem_get_info(device)[0] * SHARE_OF_FREE)
