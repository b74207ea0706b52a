"""Calibrators find the curve that was applied, leave alone what is right, never turn the order round, and read back."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_logits import Array, folds_of, log_loss, true_logits

from mlclf.decisions.calibration.calibrators import Calibrators
from mlclf.decisions.calibration.choosing import CLEAR_NATS, RARE_ROWS, choose_families, fit_calibrators
from mlclf.decisions.calibration.families import FAMILIES, Beta, Family, Isotonic, LabelCounts
from mlclf.decisions.calibration.logistic import fit_logistic
from mlclf.decisions.histograms.label_histogram import LabelHistogram


def calibrated(calibrators: Calibrators, logits: Array) -> Array:
    """Calibrated logits [n, K] of logits [n, K]."""
    return calibrators.logits(torch.from_numpy(logits.T.copy()), slice(0, logits.shape[1])).numpy().T


def one_of_each() -> Calibrators:
    parameters = ([[]], [[0.7]], [[1.4, -0.3]], [[0.0, 2.0, 0.2]], [[-2.0, -1.5, 0.0, -1.5, 3.0, 2.0]])
    return Calibrators(torch.arange(5), tuple(torch.tensor(rows).double() for rows in parameters))


def slopes_of(calibrators: Calibrators, num_labels: int) -> torch.Tensor:
    """[K], how far the curves rise around 0."""
    curves = calibrators.logits(torch.tensor([[-0.5, 0.5]]).expand(num_labels, -1), slice(0, num_labels))
    return curves[:, 1] - curves[:, 0]


# ── what is found ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_platt_recovers_a_known_slope_and_intercept() -> None:
    logits, labels = true_logits(20_000, 3)
    calibrators = fit_calibrators(folds_of(1.8 * logits + 1.2, labels))
    assert slopes_of(calibrators, 3).tolist() == pytest.approx([1 / 1.8] * 3, rel=0.05)
    assert log_loss(calibrated(calibrators, 1.8 * logits + 1.2), labels) == pytest.approx(
        log_loss(logits, labels), abs=4e-4
    )


def test_right_logits_are_left_as_they_are() -> None:
    logits, labels = true_logits(5000, 40)
    calibrators = fit_calibrators(folds_of(logits, labels))
    assert calibrators.family.count("identity") >= 30
    assert float((log_loss(calibrated(calibrators, logits), labels) - log_loss(logits, labels)).max()) < 1e-3


def test_beta_is_found_where_the_two_sides_have_their_own_slope() -> None:
    def drawn(seed: int) -> tuple[Array, Array, Array]:
        given, _ = true_logits(30_000, seed=seed, mean=0)
        low, high, intercept = (torch.tensor(value).double() for value in (0.4, 1.8, 0.3))
        right = Beta().logits(torch.stack([low, high, intercept])[None], torch.from_numpy(given.T)).T.numpy()
        uniform = np.random.default_rng(seed + 10).random(given.shape)
        return given, right, (uniform < 1 / (1 + np.exp(-right))).astype(float)

    given, _, labels = drawn(0)
    calibrators = fit_calibrators(folds_of(given, labels))
    assert calibrators.family == ["beta"]
    assert calibrators.parameters[3][0, :2].tolist() == pytest.approx([0.4, 1.8], abs=0.15)
    fresh, right, truth = drawn(1)
    assert log_loss(calibrated(calibrators, fresh), truth) < log_loss(right, truth) + 3e-4


def test_isotonic_beats_platt_on_a_distortion_that_is_not_logistic() -> None:
    """The probability is a staircase of the logit: no slope and intercept describes it."""

    def drawn(rows: int, seed: int) -> tuple[Array, Array]:
        rng = np.random.default_rng(seed)
        logits = rng.normal(0, 2, (rows, 1))
        share = np.select([logits < -2, logits < 1.5], [0.03, 0.25], 0.8)
        return logits, (rng.random(logits.shape) < share).astype(float)

    calibrators = fit_calibrators(folds_of(*drawn(60_000, 0)))
    assert calibrators.family == ["isotonic"]
    linear = pytest.importorskip("sklearn.linear_model").LogisticRegression()
    logits, labels = drawn(60_000, 0)
    fresh, truth = drawn(60_000, 1)
    platt = linear.fit(logits, labels[:, 0]).decision_function(fresh)[:, None]
    assert log_loss(calibrated(calibrators, fresh), truth) < log_loss(platt, truth) - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_rare_labels_do_not_overfit(shift: float) -> None:
    """About five positives each: on fresh rows the loss is, on average, not above that of the logits as they are."""
    logits, labels = true_logits(4000, 150, mean=-9)
    assert 3 < labels.sum(0).mean() < 10
    calibrators = fit_calibrators(folds_of(logits + shift, labels, num_bins=512))
    assert "isotonic" not in calibrators.family
    fresh, _ = true_logits(20_000, 150, seed=1, mean=-9)
    share = 1 / (1 + np.exp(-fresh))  # the expected loss over labels, so that the fresh rows add little noise
    change = (log_loss(calibrated(calibrators, fresh + shift), share) - log_loss(fresh + shift, share)).mean() * 4000
    assert change < (0.2 if shift == 0 else -0.5)  # nats a label over the rows fitted on; a free slope costs a half


def test_rare_labels_follow_the_others() -> None:
    """All slopes are ½; a label with a handful of positives knows it only from the labels with many."""
    many, labels_of_many = true_logits(4000, 20)
    few, labels_of_few = true_logits(4000, 20, seed=1, mean=-8.5)
    logits, labels = np.concatenate([many, few], 1), np.concatenate([labels_of_many, labels_of_few], 1)
    calibrators = fit_calibrators(folds_of(2 * logits - 1, labels, num_bins=1024))
    slopes = slopes_of(calibrators, 40)[20:]
    assert float((slopes - 0.5).abs().mean()) < 0.12


def test_a_label_of_one_class_or_without_rows_keeps_its_logits() -> None:
    logits, labels = true_logits(500, 4)
    labels[:, 0], labels[:, 1] = 0, 1
    calibrators = fit_calibrators(folds_of(3 * logits + 2, labels))
    assert calibrators.family[:2] == ["identity", "identity"]
    assert fit_calibrators([LabelHistogram(3, 256)] * 2).family == ["identity"] * 3


@pytest.mark.parametrize("positives", [1, 2, 5])
def test_a_few_positives_are_no_trouble(positives: int) -> None:
    logits = np.linspace(-8, 2, 400)[:, None]
    labels = (np.arange(400) >= 400 - positives).astype(float)[:, None]
    calibrators = fit_calibrators(folds_of(logits, labels))
    assert calibrators.family[0] != "isotonic"
    assert np.isfinite(calibrated(calibrators, logits)).all()


def test_isotonic_needs_its_rows() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (30_000, 2))
    labels = (rng.random(logits.shape) < 0.03 + 0.2 * (logits > -1) + 0.1 * (logits > 2)) * 1.0
    labels[Isotonic.least_rows * 3 :, 1] = 0
    assert labels[:, 0].sum() > Isotonic.least_rows > labels[:, 1].sum()
    families = fit_calibrators(folds_of(logits, labels)).family
    assert families[0] == "isotonic"
    assert families[1] != "isotonic"


@pytest.mark.slow
@given(st.floats(1e-6, 1e6))
@settings(max_examples=8, deadline=None)
def test_the_unit_of_the_weights_does_not_matter(unit: float) -> None:
    logits, labels = true_logits(1500, 3)
    weights = np.random.default_rng(0).uniform(0.2, 3, 1500)
    one, other = (fit_calibrators(folds_of(2 * logits, labels, w, num_bins=512)) for w in (weights, weights * unit))
    assert one.family == other.family
    torch.testing.assert_close(one.parameters, other.parameters, rtol=1e-4, atol=1e-4)


def test_labels_in_slices_are_labels_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = true_logits(1000, 7)
    folds = folds_of(2 * logits + 1, labels, num_bins=256)
    whole = fit_calibrators(folds)
    monkeypatch.setattr("mlclf.decisions.calibration.logit_groups.SLICE_CELLS", 512)  # two labels
    parts = fit_calibrators(folds)
    assert parts.family == whole.family
    torch.testing.assert_close(parts.parameters, whole.parameters, rtol=1e-5, atol=1e-5)


# ── the rule of choice ──────────────────────────────────────────────────────────────────────────────────────────────


def chosen(gains: list[float], errors: list[float], start: int = 0, isotonic: bool = True) -> str:
    """The family chosen where gains over the identity are independent and have these standard errors."""
    allowed = torch.tensor([[True]] * 4 + [[isotonic]])
    products = torch.diag(torch.tensor(errors).double().square())[:, :, None]
    choice = choose_families(torch.tensor(gains).double()[:, None], products, allowed, torch.tensor([start]))
    return FAMILIES[int(choice)].name


def test_a_richer_family_has_to_gain_clearly() -> None:
    none = [0.0] * 5
    assert chosen([0, CLEAR_NATS * 0.9, 0, 0, 0], none) == "identity"
    assert chosen([0, CLEAR_NATS * 1.1, 0, 0, 0], none) == "temperature"
    assert chosen([0, 5, 5.2, 5.3, 5.4], none) == "temperature"
    assert chosen([0, 5, 9, 9.1, 9.2], none) == "platt"
    assert chosen([0, 0, 0, 3, 0], [0, 0, 0, 3.5, 0]) == "identity"
    assert chosen([0, 0, 0, 3, 0], [0, 0, 0, 2.5, 0]) == "beta"
    assert chosen([0, 0, 0, 3, 30], none, isotonic=False) == "beta"


def test_a_family_chosen_together_is_left_for_a_clear_gain_only() -> None:
    none = [0.0] * 5
    assert chosen([0, 0, -0.3, 0, 0], none, start=2) == "platt"
    assert chosen([0, 0, -3, 0, 0], none, start=2) == "identity"


def test_the_default_for_rare_labels_is_chosen_together() -> None:
    """None of them gains clearly alone; all are shifted alike, and together they see it."""
    logits, labels = true_logits(1500, 200, mean=-7)
    assert labels.sum(0).max() < RARE_ROWS
    families = fit_calibrators(folds_of(logits + 0.7, labels, num_bins=256)).family
    assert families.count("identity") < 40


# ── the curves ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_family_is_its_formula() -> None:
    z = torch.linspace(-6, 6, 41).double().expand(5, -1).contiguous()
    curves = one_of_each().logits(z, slice(0, 5))
    p = torch.sigmoid(z[0])
    assert curves[0].tolist() == z[0].tolist()
    torch.testing.assert_close(curves[1], 0.7 * z[0])
    torch.testing.assert_close(curves[2], 1.4 * z[0] - 0.3)
    torch.testing.assert_close(curves[3], -2.0 * torch.log(1 - p) + 0.2)
    expected = np.interp(z[0], [-2, 0, 3], [-1.5, -1.5, 2.0])
    inside = (z[0] >= -2) & (z[0] <= 3)
    np.testing.assert_allclose(curves[4][inside], expected[inside], atol=1e-12)


def test_beta_with_equal_slopes_is_platt() -> None:
    z = torch.linspace(-30, 30, 61).double()
    torch.testing.assert_close(Beta().logits(torch.tensor([[0.8, 0.8, -1.0]]).double(), z[None])[0], 0.8 * z - 1)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=40))
@settings(deadline=None)
def test_no_curve_falls_and_all_are_finite(values: list[float]) -> None:
    z = torch.tensor(sorted(values)).expand(5, -1)
    curves = one_of_each().logits(z, slice(0, 5))
    assert curves.dtype == torch.float64
    assert torch.isfinite(curves).all()
    assert (curves.diff(dim=1) >= 0).all()


@given(st.integers(0, 1000), st.floats(0.01, 1000))
@settings(max_examples=20, deadline=None)
def test_fitted_curves_do_not_fall_either(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_t(1, (300, 4)) * scale).clip(-1e4, 1e4)
    labels = (rng.random((300, 4)) < 1 / (1 + np.exp(-rng.normal(0, 1, 4) * np.sign(logits)))).astype(float)
    calibrators = fit_calibrators(folds_of(logits, labels, folds=2, num_bins=256))
    curves = calibrators.logits(torch.linspace(-1e4, 1e4, 500).expand(4, -1), slice(0, 4))
    assert torch.isfinite(curves).all()
    assert (curves.diff(dim=1) >= 0).all()


def test_a_slice_of_labels_is_that_part_of_all() -> None:
    z = torch.randn(5, 30, generator=torch.Generator().manual_seed(0)) * 10
    whole = one_of_each().logits(z, slice(0, 5))
    for part in (slice(2, 5), slice(3, None), slice(4, 5), slice(0, 0), slice(-1, None)):
        assert one_of_each().logits(z[part], part).tolist() == whole[part].tolist()


@pytest.mark.gpu
def test_a_gpu_gives_the_same() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    logits, labels = true_logits(3000, 4)
    folds = folds_of(2 * logits, labels)
    there = fit_calibrators([fold.to("cuda") for fold in folds])
    torch.testing.assert_close(slopes_of(there, 4), slopes_of(fit_calibrators(folds), 4), rtol=1e-6, atol=1e-6)
    z = torch.linspace(-50, 50, 99).expand(5, -1)
    curves = one_of_each().logits(z.cuda(), slice(0, 5))
    assert curves.is_cuda
    torch.testing.assert_close(curves.cpu(), one_of_each().logits(z, slice(0, 5)))


class Shift(Family):
    """z + intercept."""

    name = "shift"

    def fit(self, counts: LabelCounts, fitted: Mapping[str, torch.Tensor], start: torch.Tensor | None) -> torch.Tensor:
        free, totals = counts.slope.coefficients(0, True), counts.positives + counts.negatives
        first = torch.zeros(len(totals), 1, dtype=torch.float64) if start is None else start
        return fit_logistic(torch.ones_like(totals)[None], counts.targets, totals, free, first, counts.logits)

    def logits(self, parameters: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return logits + parameters


def test_a_new_family_is_a_class_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    table = (FAMILIES[0], Shift(), *FAMILIES[1:])
    for module in ("choosing", "calibrators"):
        monkeypatch.setattr(f"mlclf.decisions.calibration.{module}.FAMILIES", table)
    logits, labels = true_logits(20_000, 3)
    moved, scaled = logits + 1.2, 1.8 * logits + 1.2
    found = fit_calibrators(folds_of(np.concatenate([moved, scaled], 1), np.concatenate([labels, labels], 1)))
    assert found.family == ["shift"] * 3 + ["platt"] * 3
    assert found.parameters[1][:, 0].tolist() == pytest.approx([-1.2] * 3, abs=0.1)
    rare, few = true_logits(1500, 100, mean=-7)
    assert fit_calibrators(folds_of(rare + 0.7, few, num_bins=256)).family.count("shift") > 60


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_fold_is_not_enough() -> None:
    message = "calibrators need two or more folds to choose a family by, got 1"
    with pytest.raises(ValueError, match=message):
        fit_calibrators([LabelHistogram(2, 256)])


def test_folds_of_other_shapes_are_refused() -> None:
    message = re.escape("folds must have the same labels and bins, got [(2, 256), (2, 512)]")
    with pytest.raises(ValueError, match=message):
        fit_calibrators([LabelHistogram(2, 256), LabelHistogram(2, 512)])
