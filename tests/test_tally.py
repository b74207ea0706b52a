from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mlclf.data.tally import Tally


def test_threads_add_without_loss() -> None:
    tally = Tally()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [tally.add(np.int64(1)) for _ in range(500)], range(40)))
    assert int(tally) == 20_000
    assert tally.take() == 20_000
    assert int(tally) == 0
