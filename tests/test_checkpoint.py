"""What is saved and loaded is all that training needs: it goes on as if it had never stopped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from made_training import Rows, drawn, run, training_of

from mlclf.errors import CheckpointError
from mlclf.training.checkpoint import NAME, flat_optimizer, load_checkpoint, nested_optimizer, save_checkpoint
from mlclf.training.steps import Candidate, Training

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
        training.keep_best([1 / training.epoch, float(training.epoch)])
    return losses


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
    second.restore(*found)
    assert before + advance(second, 4 - cut) == losses
    assert (second.epoch, second.step) == (whole.epoch, whole.step) == (4, 4 * (1 if "full_batch" in options else 5))
    assert (second.best_loss, second.best_epoch) == (whole.best_loss, whole.best_epoch) == ([0.25, 1.0], [3, 0])
    for ours, theirs in ((second.heads.state_dict(), whole.heads.state_dict()), (second.best, whole.best)):
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
    other.restore(*found)
    assert other.best_loss == [float("inf")] * 2


def test_the_new_checkpoint_replaces_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, {"a": torch.ones(3)}, {"epoch": 1})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlclf.files._fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, {"a": torch.zeros(3)}, {"epoch": 2})
    found = load_checkpoint(tmp_path)
    assert found is not None
    tensors, state = found
    assert state["epoch"] == 1
    assert tensors["a"].tolist() == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    training = made("adam", {"hidden": (4,)})
    save_checkpoint(tmp_path, training.tensors(), training.state())
    found = load_checkpoint(tmp_path)
    assert found is not None
    message = "the checkpoint is of a model of another shape; start again with --overwrite"
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        made("adam", {"hidden": (5,)}).restore(*found)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x08" + b"\x00" * 7 + b"{}      "])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    start = re.escape(f"{tmp_path / NAME}: the checkpoint cannot be read (")
    with pytest.raises(CheckpointError, match=rf"(?s)^{start}.*\); start again with --overwrite$"):
        load_checkpoint(tmp_path)


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("mlclf.training.checkpoint.FORMAT_VERSION", 2)
        save_checkpoint(tmp_path, {"a": torch.ones(1)}, {})
    message = f"{tmp_path / NAME}: checkpoint format 2, this release reads 1; start again with --overwrite"
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
