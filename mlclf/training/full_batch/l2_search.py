"""The amount of L2 chosen by held-out rows, and the optimum at it: for all labels, by models trained side by side."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mlclf.training.fold_levels import level_shifts
from mlclf.training.full_batch.chunks import Chunks, Problems
from mlclf.training.full_batch.l2_choice import choose_by_label, has_passed_its_least, joined_curves
from mlclf.training.full_batch.lbfgs import label_groups, lbfgs
from mlclf.training.full_batch.optimality import Optimality, optimality_of
from mlclf.training.full_batch.preconditioner import InputMoments
from mlclf.training.hold_out import ROW_PARTS, HeldOutCells, HeldOutLoss, HeldOutRows, HoldOut, LabelTotals
from mlclf.training.models import FAR

SEARCH_TOLERANCE, HELD_OUT_TOLERANCE, FINAL_TOLERANCE = 1e-6, 1e-8, 1e-13
"""Of a step along the path of l2, of the held-out models at its end, and of the final model."""

SOLVER_BYTES = 256 << 20


@dataclass(frozen=True)
class FullBatchSolution:
    """The models of a full-batch fit and how they were found.

    Attributes:
        models: [R, D + V + 1, K], the held-out models at the chosen l2, brought to one level.
        final: [D + V + 1, K].
        l2: [K], the chosen amounts.
        valid_loss: mean held-out loss at the chosen l2; NaN without held-out rows.
        optimality: of the final model, [K]: its data term, and how near the optimum it is; NaN for labels of one class,
            but for their data term, and all NaN where nothing is observed.
        reached: [K] bool, whether the final model reached the tolerance; labels of one class need not.
    """

    models: Tensor
    final: Tensor
    l2: Tensor
    valid_loss: float
    optimality: Optimality
    reached: Tensor

    @property
    def train_loss(self) -> Tensor:
        """[K], the data term of the final model."""
        return self.optimality.losses


@dataclass(frozen=True)
class SolvedL2:
    """One solved amount of L2, with the mean losses over labels; NaN where they are not known."""

    l2: float
    train_loss: float
    valid_loss: float


class _Columns(NamedTuple):
    """Solved problems: their columns [D + V + 1, P], and whether each reached the tolerance [P]."""

    columns: Tensor
    reached: Tensor


class FullBatchFit:
    """Chooses l2 and finds the optimum for all labels, in groups of labels so that memory stays bounded.

    With `newton` every solve begins with the Hessian of its start, and not only those at the chosen l2.
    """

    def __init__(
        self,
        chunks: Chunks,
        totals: LabelTotals,
        hold_out: HoldOut,
        pos_weight: Tensor,
        num_inputs: int,
        loss_of: HeldOutLoss,
        *,
        l1: float = 0.0,
        newton: bool = False,
    ) -> None:
        self.chunks, self.totals, self.hold_out = chunks, totals, hold_out
        self.pos_weight, self.num_inputs, self.l1, self.newton = pos_weight, num_inputs, l1, newton
        self.loss_of = loss_of
        self.moments = InputMoments.of(chunks)
        self.num_labels = totals.totals.shape[1]

    def run(self, l2: float | Sequence[float]) -> Generator[SolvedL2, None, FullBatchSolution]:
        """Solve for a fixed l2, or choose from a grid (strong to weak); yields each amount that is solved."""
        copies = self.hold_out.num_models + 1
        groups = list(label_groups(self.num_labels, self.num_inputs, copies, SOLVER_BYTES))
        starts: list[Tensor | None] = [None] * len(groups)
        if not isinstance(l2, float) and self.hold_out.chooses:
            chosen, starts = yield from self._search(groups, l2)
        else:
            fixed = l2 if isinstance(l2, float) else l2[0]
            chosen = torch.full((self.num_labels,), fixed, dtype=torch.float64)
        fits = []
        for number, group in enumerate(groups):
            labels, start = torch.tensor(group), starts[number]
            starts[number] = None
            fit = self._finish(
                labels, self._start(labels, self.hold_out.trained) if start is None else start, chosen[labels]
            )
            yield SolvedL2(float(fit.l2.median()), float(fit.train_loss.mean()), fit.valid_loss)
            fits.append((len(labels), fit))
        return _joined(fits)

    def _search(
        self, groups: Sequence[Sequence[int]], grid: Sequence[float]
    ) -> Generator[SolvedL2, None, tuple[Tensor, list[Tensor | None]]]:
        """Choose l2 [K] by the loss curves of all labels; with it, where each group starts from, or None."""
        curves, starts, kept_bytes = [], [], 0
        for group in groups:
            found, columns = yield from self._walk(torch.tensor(group), grid)
            curves.append(found)
            kept_bytes += columns.nbytes
            starts.append(columns if kept_bytes <= SOLVER_BYTES else None)
        totals = self.totals.of(self.hold_out.final())
        rarer = torch.minimum(totals.positives, totals.totals - totals.positives)[0]
        order = torch.tensor([label for group in groups for label in group])
        index = torch.empty_like(order)
        index[order] = choose_by_label(joined_curves(curves), rarer[order])
        return torch.tensor(grid, dtype=torch.float64)[index], starts

    def _walk(self, labels: Tensor, grid: Sequence[float]) -> Generator[SolvedL2, None, tuple[Tensor, Tensor]]:
        """Walk the grid until the held-out loss has passed its least; returns curves [G, k] and the best columns."""
        curves: list[Tensor] = []
        best_loss = torch.full((len(labels),), torch.inf, dtype=torch.float64)
        best_columns = columns = self._start(labels, self.hold_out.trained)
        for l2 in grid:
            problems = self._problems(labels, self.hold_out.trained, torch.full((len(labels),), l2))
            columns = self._solve(problems, columns, SEARCH_TOLERANCE).columns
            losses = self._loss_of(labels, self._held_out(labels, columns))
            curves.append(losses)
            better = losses < best_loss
            best_loss = torch.where(better, losses, best_loss)
            best_columns = torch.where(better.repeat(self.hold_out.num_models), columns, best_columns)
            means = [float(curve.nanmean()) for curve in curves]
            yield SolvedL2(l2, float("nan"), means[-1])
            if has_passed_its_least(means):
                break
        return torch.stack(curves), best_columns

    def _finish(self, labels: Tensor, start: Tensor, l2: Tensor) -> FullBatchSolution:
        """Solve at the chosen l2: the held-out models, then the final one."""
        hold_out, count = self.hold_out, len(labels)
        tolerance = HELD_OUT_TOLERANCE if hold_out.refit else FINAL_TOLERANCE
        models, reached = self._solve(self._problems(labels, hold_out.trained, l2), start, tolerance)
        loss, shifts = float("nan"), torch.zeros(1, dtype=torch.float64)
        if hold_out.chooses:
            held_out = self._held_out(labels, models)
            loss, shifts = float(self._loss_of(labels, held_out).nanmean()), held_out.shifts
        final = models[:, :count]
        if hold_out.refit:
            constant = self.totals.of(hold_out.final()).constant()[0, labels]
            final = torch.where(constant, self._start(labels, hold_out.final()), final)
            final, reached = self._solve(self._problems(labels, hold_out.final(), l2), final, FINAL_TOLERANCE)
        stacked = models.reshape(self.num_inputs, hold_out.num_models, count).permute(1, 0, 2)
        stacked[:, -1] += shifts
        return FullBatchSolution(stacked, final, l2, loss, self._optimality(labels, final, l2), reached)

    def _start(self, labels: Tensor, trained: Tensor) -> Tensor:
        """Zero weights, biases at the prior: [D + V + 1, R · k]."""
        prior = self.totals.of(trained).prior_logits(self.pos_weight)[:, labels]
        columns = torch.zeros(self.num_inputs, prior.numel(), dtype=torch.float64)
        columns[-1] = prior.reshape(-1)
        return columns

    def _problems(self, labels: Tensor, trained: Tensor, l2: Tensor) -> Problems:
        """Problem r · k + j is label labels[j] of model r."""
        num_models = trained.shape[0]
        totals = self.totals.of(trained).totals[:, labels].reshape(-1)
        return Problems(
            labels=labels.repeat(num_models),
            models=torch.arange(num_models).repeat_interleave(len(labels)),
            l2=l2.double().repeat(num_models),
            trained=trained,
            totals=totals.clamp_min(1e-300),
            pos_weight=self.pos_weight[labels].repeat(num_models),
            l1=self.l1,
        )

    def _solve(self, problems: Problems, start: Tensor, tolerance: float) -> _Columns:
        """Solve every problem; those of labels with one class stay at the start, which is their prior."""
        fixed = self.totals.of(problems.trained).constant()[problems.models, problems.labels]
        index = (~fixed).nonzero()[:, 0]
        result, reached = start.clone(), torch.ones(len(problems), dtype=torch.bool)
        if len(index):
            solution = lbfgs(
                self.chunks,
                problems.chosen(index),
                start[:, index],
                self.moments,
                tolerance=tolerance,
                newton=self.newton or tolerance < SEARCH_TOLERANCE,
            )
            result[:, index], reached[index] = solution.columns, solution.converged
        return _Columns(result, reached)

    def _loss_of(self, labels: Tensor, held_out: HeldOutRows) -> Tensor:
        """Mean held-out log-loss of each label after calibration: [k] float64; NaN where nothing is observed."""
        return self.loss_of([cells for cells, _ in held_out.pieces], self.pos_weight[labels].log())

    def held_out_parts(self, models: Tensor) -> Tensor:
        """Held-out loss of models in parts of the rows, mean over labels: [parts] float64.

        The parts are the folds, which keep groups together; where one part alone is held out, every fifth of its rows
        from the first on, from the second on, and so on.

        Args:
            models: [R, D + V + 1, K] float64, of a solution.
        """
        models = models.permute(1, 0, 2)
        folds = (self.hold_out.judge >= 0).nonzero()[:, 0].tolist()
        numbers = folds if len(folds) > 1 else range(ROW_PARTS)
        losses: list[list[Tensor]] = [[] for _ in numbers]
        for group in label_groups(self.num_labels, self.num_inputs, self.hold_out.num_models + 1, SOLVER_BYTES):
            labels = torch.tensor(group)
            held_out = self._held_out(labels, models[:, :, labels].flatten(1)).pieces
            lengths = [len(parts) for _, parts in held_out]
            every = torch.cat([parts for _, parts in held_out])
            if len(folds) == 1:
                every = torch.arange(len(every)) % ROW_PARTS
            pieces = [(cells, parts) for (cells, _), parts in zip(held_out, torch.split(every, lengths), strict=True)]
            for number, found in zip(numbers, losses, strict=True):
                rows = [cells.chosen(parts == number) for cells, parts in pieces]
                found.append(self.loss_of(rows, self.pos_weight[labels].log()))
        return torch.stack([torch.cat(found).nanmean() for found in losses])

    def _held_out(self, labels: Tensor, columns: Tensor) -> HeldOutRows:
        """Held-out rows, scored by the models that were not trained on them, moved to one mean logit."""
        count = self.hold_out.num_models
        levels = torch.zeros(count, len(labels), dtype=torch.float64)
        weights = torch.zeros(len(labels), dtype=torch.float64)
        pieces, models = [], []
        for chunk in self.chunks():
            model = self.hold_out.judge[chunk.parts]
            rows = (model >= 0).nonzero()[:, 0]
            logits = chunk.logits(columns).reshape(len(chunk), count, len(labels))
            truth = chunk.labels[rows][:, labels]
            mask = torch.ones_like(truth) if chunk.mask is None else chunk.mask[rows][:, labels]
            cells = chunk.weights[rows, None] * mask
            if count > 1:  # several models are those of folds, which hold out every row
                levels += torch.einsum("nrk,nk->rk", logits, cells)
                weights += cells.sum(0)
            held_out = logits[rows, model[rows]].clamp(-FAR, FAR).float()
            pieces.append((HeldOutCells(held_out, truth, cells), chunk.parts[rows]))
            models.append(model[rows])
        if count == 1:
            return HeldOutRows(pieces, levels)
        levels = torch.where(weights > 0, levels / weights, 0.0)
        shifts = level_shifts(levels, self.totals.of(self.hold_out.trained).totals[:, labels])
        for (piece, _), model in zip(pieces, models, strict=True):
            piece.logits.add_(shifts[model].float())
        return HeldOutRows(pieces, shifts)

    def _optimality(self, labels: Tensor, columns: Tensor, l2: Tensor) -> Optimality:
        trained = self.hold_out.final()
        totals = self.totals.of(trained)
        found = optimality_of(self.chunks, self._problems(labels, trained, l2), columns)
        return found.known(totals.totals[0, labels] > 0, ~totals.constant()[0, labels])


def _joined(fits: Sequence[tuple[int, FullBatchSolution]]) -> FullBatchSolution:
    """The solution for all labels from those of groups of labels."""
    sizes = torch.tensor([size for size, _ in fits], dtype=torch.float64)
    parts = [fit for _, fit in fits]
    losses = torch.tensor([fit.valid_loss for fit in parts], dtype=torch.float64)
    return FullBatchSolution(
        models=torch.cat([fit.models for fit in parts], dim=2),
        final=torch.cat([fit.final for fit in parts], dim=1),
        l2=torch.cat([fit.l2 for fit in parts]),
        valid_loss=float((losses * sizes).sum() / sizes.sum()),
        optimality=Optimality.joined([fit.optimality for fit in parts]),
        reached=torch.cat([fit.reached for fit in parts]),
    )
