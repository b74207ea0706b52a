"""The loss of a batch is torch's own, and an unbiased estimate of the objective over all rows."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
import torch
from torch import nn

from mlclf.errors import ConfigError
from mlclf.training.losses import MaskedLoss, loss_and_slope, pos_weights

NAMES = ["a", "b", "c", "d"]


def drawn(rows: int = 12, labels: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "logits": torch.randn(rows, labels, generator=generator) * 3,
        "labels": (torch.rand(rows, labels, generator=generator) < 0.4).to(torch.uint8),
        "mask": torch.rand(rows, labels, generator=generator) < 0.7,
        "weights": torch.rand(rows, 1, generator=generator),
        "pos_weight": torch.tensor([1.0, 3.0, 0.25])[:labels],
    }


def test_it_is_the_loss_of_torch() -> None:
    data = drawn()
    ours = MaskedLoss(data["pos_weight"], torch.ones(3))(data["logits"], data["labels"], data["weights"])
    theirs = nn.BCEWithLogitsLoss(weight=data["weights"], pos_weight=data["pos_weight"], reduction="none")
    torch.testing.assert_close(ours, theirs(data["logits"], data["labels"].float()).sum(0))


def test_masked_cells_have_no_loss_and_no_gradient() -> None:
    data = drawn()
    data["logits"].requires_grad_()
    cells = data["weights"] * data["mask"]
    loss = MaskedLoss(data["pos_weight"], torch.ones(3))
    value = loss(data["logits"], data["labels"], cells)
    flipped = torch.where(data["mask"], data["labels"], 1 - data["labels"])
    torch.testing.assert_close(value, loss(data["logits"], flipped, cells), rtol=0, atol=0)
    value.sum().backward()
    assert data["logits"].grad is not None
    assert not data["logits"].grad[~data["mask"]].any()
    assert data["logits"].grad[data["mask"]].all()


@pytest.mark.parametrize("batch_rows", [1, 2, 3])
def test_the_mean_over_all_batches_is_the_objective(batch_rows: int) -> None:
    """Every batch of so many rows out of six, rare and masked labels among them."""
    data = drawn(6)
    data["mask"][:, 1] = torch.tensor([True, False, False, True, False, False])
    data["labels"][:, 2] = torch.tensor([1, 0, 0, 0, 0, 0])
    cells = data["weights"] * data["mask"]
    loss = MaskedLoss(data["pos_weight"], 6 / cells.sum(0))
    batches = [list(rows) for rows in combinations(range(6), batch_rows)]
    values = [loss(data["logits"][r], data["labels"][r], cells[r]) / batch_rows for r in batches]
    whole = nn.BCEWithLogitsLoss(pos_weight=data["pos_weight"], reduction="none")
    objective = (whole(data["logits"], data["labels"].float()) * cells).sum(0) / cells.sum(0)
    torch.testing.assert_close(torch.stack(values).mean(0), objective)


def test_padding_of_weight_zero_changes_nothing() -> None:
    data = drawn()
    loss = MaskedLoss(data["pos_weight"], torch.ones(3))
    value = loss(data["logits"], data["labels"], data["weights"])
    more = [torch.cat([data[name], data[name][:4]]) for name in ("logits", "labels")]
    padded = loss(*more, torch.cat([data["weights"], torch.zeros(4, 1)]))
    torch.testing.assert_close(value, padded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_a_thousand_are_exact(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1000.0], [-1000.0], [1000.0], [-1000.0]], dtype=dtype)
    labels = torch.tensor([[1], [0], [0], [1]], dtype=torch.uint8)
    expected = torch.tensor([[0.0], [0.0], [1000.0], [2000.0]], dtype=dtype)
    value, slope = loss_and_slope(logits, labels.to(dtype), torch.tensor([2.0], dtype=dtype))
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(slope, torch.tensor([[0.0], [0.0], [1.0], [-2.0]], dtype=dtype), rtol=0, atol=0)
    masked = MaskedLoss(torch.tensor([2.0]), torch.ones(1))(logits, labels, torch.ones(4, 1))
    assert float(masked) == 3000.0


def test_the_slope_is_the_derivative() -> None:
    data = drawn()
    logits = data["logits"].double().requires_grad_()
    pos_weight = data["pos_weight"].double()
    value, slope = loss_and_slope(logits, data["labels"].double(), pos_weight)
    theirs = nn.BCEWithLogitsLoss(pos_weight=pos_weight, reduction="none")(logits, data["labels"].double())
    torch.testing.assert_close(value, theirs)
    (gradient,) = torch.autograd.grad(theirs.sum(), logits)
    torch.testing.assert_close(slope, gradient)


# ── pos_weight ──────────────────────────────────────────────────────────────────────────────────────────────────────

POSITIVES = torch.tensor([10.0, 0.0, 40.0, 0.0], dtype=torch.float64)
TOTALS = torch.tensor([40.0, 40.0, 40.0, 0.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("none", [1, 1, 1, 1]),
        ("balanced", [3, 1, 1, 1]),
        ("sqrt", [3**0.5, 1, 1, 1]),
        (2.5, [2.5, 2.5, 2.5, 2.5]),
        (2, [2, 2, 2, 2]),
        ({"b": 7.0}, [1, 7, 1, 1]),
    ],
)
def test_rules_of_pos_weight(rule: str | float | dict[str, float], expected: list[float]) -> None:
    weights = pos_weights(rule, POSITIVES, TOTALS, NAMES)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))


def test_unknown_labels_of_pos_weight_are_refused() -> None:
    message = "loss.pos_weight names labels that do not exist: 'x', 'y'; the labels are 'a', 'b', 'c', 'd' …"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        pos_weights({"a": 1.0, "x": 2.0, "y": 3.0}, POSITIVES, TOTALS, NAMES)


@pytest.mark.parametrize("rule", ["balanced", "sqrt"])
def test_a_label_without_positives_has_a_finite_loss(rule: str) -> None:
    weights = pos_weights(rule, POSITIVES, TOTALS, NAMES).float()
    loss = MaskedLoss(weights, torch.ones(4))(torch.randn(5, 4), torch.zeros(5, 4), torch.ones(5, 1))
    assert torch.isfinite(loss).all()
