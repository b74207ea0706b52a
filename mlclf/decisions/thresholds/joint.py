"""Objectives of all labels together: micro-F1, micro- and macro-F1, a budget of alerts.

Each is solved by one number for all labels, given which every label's cut is chosen on its own (`cutoffs.best_cuts`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlclf.decisions.thresholds.cutoffs import Cuts, Joint, best_cuts
from mlclf.decisions.thresholds.objectives import Objective

MAX_STEPS = 100


def solve_joint(slices: Sequence[Cuts], objective: Objective) -> Joint:
    """Return what the cuts of all labels have to share at the optimum.

    - `micro_f1`: the ratio 2 Σ TP ÷ (Σ P + Σ flagged) is greatest where no label can raise Σ (2 TP − F · flagged) any
      more, F being the ratio itself (Dinkelbach 1967). With calibrated probabilities that is one cut at F/2.
    - `micro_macro_f1`: the sum of micro-F1 and macro-F1 (Lin and Lin, CIKM 2023, weigh the two alike), whose micro part
      is replaced by its tangent at the last cuts until these stay.
    - `alert_budget:n`: the least probability such that the rows at and above it, over all labels, are n at most. With
      calibrated probabilities no other n alerts are expected to hold more positives.

    Args:
        slices: cuts of all labels, shrunk where they are to be; at least one.
        objective: one for which `is_joint`.
    """
    if objective.name == "alert_budget":
        return Joint(_least_probability(slices, objective.parameters[0]))
    labels = sum(len(cuts.greatest) for cuts in slices)
    total = sum(float(cuts.positives[:, -1].sum()) for cuts in slices)
    joint = Joint(0.5, max(total, 1.0), labels)
    for _ in range(MAX_STEPS):
        sums = [cuts.at(best_cuts(cuts, objective, joint)) for cuts in slices]
        true, flagged = (sum(float(part[side].sum()) for part in sums) for side in (0, 1))
        size = max(total + flagged, 1e-300)
        before, joint = joint, Joint(2 * true / size, size, labels)
        if abs(joint.level - before.level) <= 1e-12 and abs(joint.size - before.size) <= 1e-9 * size:
            break
    return joint


def _least_probability(slices: Sequence[Cuts], budget: float) -> float:
    """The least probability whose flagged rows, ties included, are within the budget; above 1 if there is none."""
    probabilities: list[Tensor] = []
    masses: list[Tensor] = []
    for cuts in slices:
        mass = torch.diff(cuts.flagged, dim=1, prepend=torch.zeros_like(cuts.flagged[:, :1]))
        within = (mass > 0) & (cuts.flagged - mass <= budget)
        probabilities.append(cuts.probability[within])
        masses.append(mass[within])
    probability, order = torch.cat(probabilities).sort(descending=True)
    flagged = torch.cat(masses)[order].cumsum(0)
    last_of_ties = torch.ones_like(probability, dtype=torch.bool)
    last_of_ties[:-1] = probability[1:] != probability[:-1]
    allowed = last_of_ties & (flagged <= budget * (1 + 1e-12))
    return float(probability[allowed][-1]) if bool(allowed.any()) else 2.0
