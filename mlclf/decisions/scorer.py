"""Model → logits → scores. The only place where a sigmoid makes scores."""

from __future__ import annotations

import torch
from torch import Tensor

from mlclf.data.batch import Batch
from mlclf.decisions.calibration.logit_bounds import LogitBounds
from mlclf.training.models import LinearHead


class Scorer:
    """A fitted model with what calibration added to it: batches in, calibrated logits out."""

    def __init__(self, model: LinearHead, bounds: LogitBounds, device: torch.device) -> None:
        self.model = model.to(device).eval()
        self.bounds = bounds
        self.device = device

    @torch.inference_mode()
    def logits(self, batch: Batch) -> Tensor:
        """[B, K] float32 on the CPU."""
        logits = self.model.scoring_logits(batch.to(self.device)).cpu()
        return self.bounds.apply(logits)
