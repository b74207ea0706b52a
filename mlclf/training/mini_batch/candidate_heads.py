"""The heads of R candidates, trained side by side on the same batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlclf.data.batch import Batch
from mlclf.training.models import LinearHead


@dataclass(frozen=True)
class Candidate:
    """One model of a sweep: the parts of the split it is trained on ([parts] of 0 and 1) and its l2."""

    trained: tuple[float, ...]
    l2: float


class CandidateHeads(nn.Module):
    """R heads over the same inputs: one wide head without hidden layers, else R heads."""

    def __init__(self, num: int, num_dense: int, vocabulary: int, num_labels: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.num, self.num_labels = num, num_labels
        self.shape = (num_dense, vocabulary)
        self.wide = not hidden
        heads = [LinearHead(num_dense, vocabulary, num_labels * (num if self.wide else 1), hidden)]
        if not self.wide:
            heads += [LinearHead(num_dense, vocabulary, num_labels, hidden) for _ in range(num - 1)]
            for head in heads[1:]:
                head.load_state_dict(heads[0].state_dict())
        self.heads = nn.ModuleList(heads)

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, R, K]."""
        logits = [head.batch_logits(batch) for head in self.heads if isinstance(head, LinearHead)]
        return torch.stack(logits, 1) if not self.wide else logits[0].reshape(-1, self.num, self.num_labels)

    def start_biases(self, priors: Tensor) -> None:
        """Set the last biases to prior logits [R, K]."""
        with torch.no_grad():
            for index, head in enumerate(self.heads):
                assert isinstance(head, LinearHead)
                head.last.bias.copy_(priors.reshape(-1) if self.wide else priors[index])

    def decayed(self, l2: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Every weight with its l2, as tensors that broadcast; l2 [R]."""
        pairs = []
        for index, head in enumerate(self.heads):
            assert isinstance(head, LinearHead)
            for parameter in head.decayed():
                rate = l2[index].reshape(1, 1)
                if self.wide:
                    by_output = l2.repeat_interleave(self.num_labels)
                    is_embedding = head.embedding is not None and parameter is head.embedding.weight
                    rate = by_output[None, :] if is_embedding else by_output[:, None]
                pairs.append((parameter, rate))
        return pairs

    def head(self, index: int, state: dict[str, Tensor] | None = None) -> LinearHead:
        """A copy of candidate `index` on its own, from a saved state of all where given."""
        state = self.state_dict() if state is None else state
        if not self.wide:
            own = own_state(state, f"heads.{index}.")
            hidden = [own["linear.weight"].shape[0]]
            hidden += [own[name].shape[0] for name in sorted(own) if name.startswith("layers.") and "weight" in name]
            head = LinearHead(*self.shape, self.num_labels, hidden[:-1])
        else:
            own = own_state(state, "heads.0.")
            part = slice(index * self.num_labels, (index + 1) * self.num_labels)
            own = {name: value[:, part] if "embedding" in name else value[part] for name, value in own.items()}
            head = LinearHead(*self.shape, self.num_labels)
        head.load_state_dict(own)
        return head

    def copy_candidate(self, index: int, state: dict[str, Tensor], out: dict[str, Tensor]) -> None:
        """Copy the weights of candidate `index` from one state of all heads into another."""
        part = slice(index * self.num_labels, (index + 1) * self.num_labels)
        for name, value in state.items():
            if not self.wide:
                if name.startswith(f"heads.{index}."):
                    out[name].copy_(value)
            elif "embedding" in name:
                out[name][:, part] = value[:, part]
            else:
                out[name][part] = value[part]


def own_state(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
