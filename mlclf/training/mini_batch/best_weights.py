"""The weights of each candidate at the epoch where its held-out loss was least: early stopping goes back to them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from mlclf.training.mini_batch.candidate_heads import CandidateHeads


class BestWeights:
    """The best of R candidates so far.

    Attributes:
        weights: a state of all heads, each part of it from its candidate's own epoch; empty before the first.
        losses, epochs: R numbers, where each candidate was best; ∞ and −1 before the first.
    """

    def __init__(
        self,
        count: int,
        weights: dict[str, Tensor] | None = None,
        losses: list[float] | None = None,
        epochs: list[int] | None = None,
    ) -> None:
        self.weights = weights or {}
        self.losses, self.epochs = losses or [math.inf] * count, epochs or [-1] * count

    def keep(self, heads: CandidateHeads, epoch: int, losses: Sequence[float], *, always: bool = False) -> None:
        """Keep the weights of each candidate whose held-out loss is its least so far, or the latest ones (`always`)."""
        state = heads.state_dict()
        for index, loss in enumerate(losses):
            if always or loss < self.losses[index]:
                self.losses[index], self.epochs[index] = loss, epoch
                if self.weights:
                    heads.copy_candidate(index, state, self.weights)
                else:
                    self.weights = {name: value.detach().clone() for name, value in state.items()}
