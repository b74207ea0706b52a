"""Binary cross-entropy of logits with pos_weight, masks, row and label weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlclf.errors import ConfigError


def pos_weights(
    rule: str | float | Mapping[str, float], positives: Tensor, totals: Tensor, label_names: Sequence[str]
) -> Tensor:
    """The factor of the positive term of each label: [K] float64.

    Args:
        rule: `none` (1), `balanced` (negatives ÷ positives), `sqrt` (the root of that), a number for every label, or
            a mapping from label to number (others 1).
        positives, totals: [K] float64, weights of positive and of observed training rows. Labels of one class get 1.

    Raises:
        ConfigError: the mapping names a label that does not exist.
    """
    ones = torch.ones_like(positives)
    if isinstance(rule, Mapping):
        unknown = [name for name in rule if name not in label_names]
        if unknown:
            raise ConfigError(
                f"loss.pos_weight names labels that do not exist: {', '.join(map(repr, unknown[:5]))}; "
                f"the labels are {', '.join(map(repr, list(label_names)[:5]))} …"
            )
        return torch.tensor([float(rule.get(name, 1.0)) for name in label_names], dtype=torch.float64)
    if isinstance(rule, int | float):
        return ones * float(rule)
    if rule == "none":
        return ones
    negatives = totals - positives
    ratio = torch.where((positives > 0) & (negatives > 0), negatives / positives.clamp_min(1e-300), ones)
    return ratio.sqrt() if rule == "sqrt" else ratio


class MaskedLoss(nn.Module):
    """The data term of the objective over one batch, an unbiased estimate of it over all rows.

    For label k it is Σ wᵢ·BCEᵢ over the observed rows of the batch, times `scale`[k] ÷ B, where scale = W ÷ W_k
    (all row weights ÷ row weights that observe k, both per row), so that masked and rare labels count like any other.
    """

    scale: Tensor

    def __init__(self, pos_weight: Tensor, scale: Tensor) -> None:
        """pos_weight, scale: [K] float32."""
        super().__init__()
        self.bce = nn.BCEWithLogitsLoss(reduction="none", pos_weight=None if (pos_weight == 1).all() else pos_weight)
        self.register_buffer("scale", scale)

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """[K] float32 loss of each label.

        Args:
            logits: [B, K].
            labels: [B, K] of 0 and 1.
            weights: [B, K] or [B, 1], row weight where the label is observed, else 0.
        """
        cells = self.bce(logits.float(), labels.to(torch.float32)) * weights
        loss: Tensor = cells.sum(0) * self.scale
        return loss


def loss_and_slope(logits: Tensor, labels: Tensor, pos_weight: Tensor) -> tuple[Tensor, Tensor]:
    """BCE with pos_weight of every cell, and its derivative by the logit; stable at any logit.

    Args:
        logits: [B, K] float64.
        labels: [B, K] float64 of 0 and 1.
        pos_weight: [K] float64.
    """
    positive = labels * pos_weight
    factor = 1 - labels + positive
    loss = -functional.logsigmoid(-logits) * factor - positive * logits
    return loss, torch.sigmoid(logits) * factor - positive
