"""What is saved and loaded is all that training needs: it goes on as if it had never stopped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from made_training import Rows, drawn, run, training_of

from mlclf.errors import CheckpointError, FullDiskError
from mlclf.training.mini_batch.candidate_heads import Candidate
from mlclf.training.mini_batch.checkpoint import (
    BEFORE,
    NAME,
    flat_optimizer,
    load_checkpoint,
    nested_optimizer,
    save_checkpoint,
)
from mlclf.training.mini_batch.loop import Training

OPTIMIZERS = ["adam", "adamw", "adagrad", "sgd"]
OPTIONS: list[dict[str, Any]] = [
    {"hidden": ()},
    {"hidden": (4,)},
    {"hidden": (), "lr": 0.1},
    {"hidden": (), "full_batch": True},
    {"hidden": (), "precision": "fp16"},
]


def made(name: str, options: dict[str, Any]) -> Training:
    candidates = [Candidate((1.0,), 0.01), Candidate((1.0,), 0.1)]
    return training_of(drawn(), candidates=candidates, optimizer_name=name, total_steps=20, **options)


def advance(training: Training, epochs: int) -> list[float]:
    """Epochs with their bookkeeping, as a fit does them."""
    losses = []
    for _ in range(epochs):
        loss = run(training, Rows(drawn(), 13))[0]
        losses += loss.tolist()
        training.best.keep(training.heads, training.epoch - 1, [1 / training.epoch, float(training.epoch)])
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_resumed_training_is_the_uninterrupted_one(
    tmp_path: Path, name: str, options: dict[str, Any], cut: int
) -> None:
    """Cut after the first epoch, in the middle, and after the last batch of the last one."""
    whole, first, second = (made(name, options) for _ in range(3))
    losses = advance(whole, 4)
    before = advance(first, cut)
    save_checkpoint(tmp_path, first.tensors(), first.state())
    found = load_checkpoint(tmp_path)
    assert found is not None
    second.restore(found.tensors, found.state)
    assert before + advance(second, 4 - cut) == losses
    assert (second.epoch, second.step) == (whole.epoch, whole.step) == (4, 4 * (1 if "full_batch" in options else 5))
    assert second.best.losses == whole.best.losses == [0.25, 1.0]
    assert second.best.epochs == whole.best.epochs == [3, 0]
    pairs = (second.heads.state_dict(), whole.heads.state_dict()), (second.best.weights, whole.best.weights)
    for ours, theirs in pairs:
        assert set(ours) == set(theirs)
        for key, value in ours.items():
            torch.testing.assert_close(value, theirs[key], rtol=0, atol=0)
    ours_state, theirs_state = second.tensors(), whole.tensors()
    assert set(ours_state) == set(theirs_state)
    for key, value in ours_state.items():
        torch.testing.assert_close(value, theirs_state[key], rtol=0, atol=0)


def test_there_may_be_no_checkpoint(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none") is None


def test_an_infinite_best_loss_survives(tmp_path: Path) -> None:
    training = made("sgd", {})
    save_checkpoint(tmp_path, training.tensors(), training.state())
    found = load_checkpoint(tmp_path)
    assert found is not None
    other = made("sgd", {})
    other.restore(found.tensors, found.state)
    assert other.best.losses == [float("inf")] * 2


def test_the_new_checkpoint_replaces_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, {"a": torch.ones(3)}, {"epoch": 1})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlclf.files.fsync_path", fail)
    with pytest.raises(FullDiskError):
        save_checkpoint(tmp_path, {"a": torch.zeros(3)}, {"epoch": 2})
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.state["epoch"] == 1
    assert found.tensors["a"].tolist() == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == [BEFORE]


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    training = made("adam", {"hidden": (4,)})
    save_checkpoint(tmp_path, training.tensors(), training.state())
    found = load_checkpoint(tmp_path)
    assert found is not None
    message = "the checkpoint is of a model of another shape; start again with --overwrite"
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        made("adam", {"hidden": (5,)}).restore(found.tensors, found.state)


def saved(folder: Path) -> bytes:
    """Two checkpoints, of epochs 1 and 2; the bytes of the last."""
    for epoch in (1, 2):
        tensors = {
            "a": torch.full((3,), float(epoch)),
            "half": torch.tensor([[1.5, epoch]], dtype=torch.bfloat16),
            "step": torch.tensor(epoch),
            "none": torch.zeros(0, 4),
        }
        save_checkpoint(folder, tensors, {"epoch": epoch, "text": "größer"})
    return (folder / NAME).read_bytes()


def test_no_bit_of_a_checkpoint_can_be_another_one(tmp_path: Path) -> None:
    """A bit of every byte, of the header, the state and the tensors: the checkpoint before it is taken, and it is said.

    Only the blanks that fill up the header may be others.
    """
    content = saved(tmp_path)
    random, seen = torch.Generator().manual_seed(0), 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(torch.randint(8, (1,), generator=random))
        (tmp_path / NAME).write_bytes(damaged)
        found = load_checkpoint(tmp_path)
        assert found is not None
        if found.problems:
            assert found.state["epoch"] == 1
            assert found.tensors["a"].tolist() == [1, 1, 1]
            assert found.problems[0].startswith(f"{tmp_path / NAME}: the checkpoint is damaged (")
            seen += 1
        else:
            assert found.state["epoch"] == 2
            assert content[place : place + 1] == b" "
    assert seen > len(content) - 10


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, -1])
def test_a_checkpoint_that_is_cut_short_gives_way_to_the_one_before(tmp_path: Path, size: int) -> None:
    (tmp_path / NAME).write_bytes(saved(tmp_path)[:size])
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert (found.state["epoch"], len(found.problems)) == (1, 1)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x08" + b"\x00" * 7 + b"{}      ", b"\xff" * 100])
def test_where_all_are_damaged_nothing_is_taken(tmp_path: Path, content: bytes) -> None:
    for name in (NAME, BEFORE):
        (tmp_path / name).write_bytes(content)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert (found.state, found.tensors, len(found.problems)) == ({}, {}, 2)


def test_a_checkpoint_that_is_missing_is_as_one_that_was_never_written(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / NAME).unlink()
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert (found.state["epoch"], found.problems) == (1, [])


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("mlclf.training.mini_batch.checkpoint.FORMAT_VERSION", 3)
        save_checkpoint(tmp_path, {"a": torch.ones(1)}, {})
    message = f"{tmp_path / NAME}: checkpoint format 3, this release reads 2; start again with --overwrite"
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        load_checkpoint(tmp_path)


def test_optimizer_state_goes_flat_and_back() -> None:
    training = made("adam", {})
    advance(training, 1)
    state = training.optimizer.state_dict()
    back = nested_optimizer(flat_optimizer(state))
    assert set(back) == set(state["state"])
    for index, fields in back.items():
        assert set(fields) == set(state["state"][index])
