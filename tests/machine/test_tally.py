from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mlclf.machine.tally import CountedOnce, Tally


def test_threads_add_without_loss() -> None:
    tally = Tally()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [tally.add(np.int64(1)) for _ in range(500)], range(40)))
    assert int(tally) == 20_000
    assert tally.take() == 20_000
    assert int(tally) == 0


def test_rows_that_are_met_again_add_nothing() -> None:
    tally, counted = Tally(), CountedOnce()
    for first_row in (0, 64, 0, 64, 128):
        with counted.rows_from(first_row):
            tally.add(first_row + 1)
    assert tally.take() == 1 + 65 + 129
    with CountedOnce().rows_from(0):
        tally.add(1)
    tally.add(1)
    assert tally.take() == 2


def test_only_the_thread_that_encodes_is_muted() -> None:
    tally, counted = Tally(), CountedOnce()
    with counted.rows_from(0):
        pass
    with counted.rows_from(0), ThreadPoolExecutor(1) as pool:
        pool.submit(tally.add, 3).result()
        tally.add(5)
    assert tally.take() == 3
