from __future__ import annotations

import numpy as np
import pytest
import torch
from made_batches import made_batch

from mlclf.training.mini_batch.transfer import on_device

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


def test_the_cpu_gets_the_batches_themselves() -> None:
    batches = [made_batch(np.ones((4, 2)), np.ones((4, 1), np.int64)) for _ in range(3)]
    assert all(one is other for one, other in zip(on_device(batches, torch.device("cpu")), batches, strict=True))


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_gets_them_in_their_order() -> None:
    batches = [made_batch(np.full((4000, 50), k), np.full((4000, 3), k % 2)) for k in range(20)]
    moved = on_device(batches, torch.device("cuda"))
    for number, batch in enumerate(moved):
        assert (batch.dense.device.type, batch.rows.device.type) == ("cuda", "cpu")
        assert float(batch.dense.sum()) == number * 4000 * 50
        assert int(batch.labels.sum()) == number % 2 * 12_000
    assert number == 19
