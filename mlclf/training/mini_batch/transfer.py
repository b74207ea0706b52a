"""Copies batches to a GPU, each while it computes with the one before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from mlclf.data.batch import Batch


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches on a device, one ahead of the one that is used; on the CPU, the batches themselves.

    Copies go through page-locked memory on a stream of their own, so neither they nor the steps wait for the other.
    """
    if device.type != "cuda":
        yield from batches
        return
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch has no type for it
    coming: Batch | None = None
    for batch in batches:
        with torch.cuda.stream(side):
            moved = batch.to(device)
        if coming is not None:
            yield coming
        current = torch.cuda.current_stream(device)
        current.wait_stream(side)
        moved.record_stream(current)
        coming = moved
    if coming is not None:
        yield coming
