"""The document of an evaluation has the contract's keys, and numbers that agree with scikit-learn."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from made_cells import count_rows
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, log_loss, roc_auc_score
from torch import Tensor

from mlclf.decisions.cells.cell_slices import SLICE_CELLS
from mlclf.decisions.evaluation.evaluation import Evaluation
from mlclf.errors import DataError

ROUNDING = 1e-12
NAMES = ["a", "b", "c", "d"]
THRESHOLDS = torch.tensor([0.3, torch.nan, 0.6, 0.2])
PREVALENCES = torch.tensor([0.4, 0.3, 0.5, 0.01], dtype=torch.float64)
DECIDED = {"f1", "precision", "recall", "specificity", "balanced_accuracy", "mcc"}
M = {"auroc", "average_precision", *DECIDED, *(f"{name}_at_half" for name in DECIDED)}
CALIBRATION = {
    *("ece", "ece_debiased", "rms_debiased", "max_error"),
    *("slope", "intercept", "observed_expected"),
}


def scores_of(logits: Tensor) -> Tensor:
    return torch.sigmoid(logits.double()).float()


def batch(seed: int = 0, rows: int = 200) -> dict[str, Tensor]:
    """Four labels; `d` never has a positive row, and half a row's cells are hidden."""
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(-1, 2, (rows, 4)).round(1), dtype=torch.float32)
    labels = torch.tensor(rng.random((rows, 4)) < 0.4)
    labels[:, 3] = False
    return {
        "logits": logits,
        "scores": scores_of(logits),
        "labels": labels,
        "mask": torch.tensor(rng.random((rows, 4)) < 0.8),
        "weights": torch.tensor(rng.integers(0, 4, rows) / 4),
    }


def evaluated(*batches: dict[str, Tensor]) -> Evaluation:
    evaluation = Evaluation(THRESHOLDS, num_bins=4096)
    for data in batches:
        count_rows(evaluation, **data)
    return evaluation


def report(*batches: dict[str, Tensor]) -> dict[str, Any]:
    return evaluated(*batches).report(NAMES, PREVALENCES)


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_document() -> None:
    data, before = batch(rows=5 * SLICE_CELLS // len(NAMES)), torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(evaluated(data))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert other.report(NAMES, PREVALENCES) == found[0].report(NAMES, PREVALENCES)


def test_the_document_has_the_keys_of_the_contract_and_is_json() -> None:
    document = report(batch())
    assert set(document) == {
        *("format_version", "rows", "log_loss", "gain", "brier", "hamming_loss", "subset_accuracy"),
        *("scored_labels", "undefined_labels", "macro", "micro", "macro_all", "ranking", "calibration", "labels"),
        *("weighted", "undefined", "micro_error_bound"),
    }
    for name in ("macro", "micro", "weighted", "undefined"):
        assert set(document[name]) == M
    assert set(document["macro_all"]) == {"f1", "f1_at_half"}
    assert set(document["micro_error_bound"]) == {"auroc", "average_precision"}
    assert set(document["ranking"]) == {
        *(f"{name}_at_{count}" for name in ("p", "ndcg") for count in (1, 3, 5)),
        *("label_ranking_average_precision", "coverage_error", "label_ranking_loss"),
    }
    assert set(document["calibration"]) == CALIBRATION
    assert list(document["labels"]) == NAMES
    for label in document["labels"].values():
        assert set(label) == M | {
            *("log_loss", "gain", "brier", "threshold", "support", "rows", "error_bound", "calibration"),
        }
        assert set(label["calibration"]) == CALIBRATION
        assert set(label["error_bound"]) == {"auroc", "average_precision"}
        assert type(label["support"]) is type(label["rows"]) is int
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_the_numbers_are_those_of_scikit_learn() -> None:
    data = batch()
    document = report(data)
    assert document["format_version"] == 1
    assert document["rows"] == int((data["weights"] > 0).sum())
    per_label, support = [], []
    for k, name in enumerate(NAMES[:3]):
        seen = data["mask"][:, k] & (data["weights"] > 0)
        y, w, s = data["labels"][seen, k].long(), data["weights"][seen], data["scores"][seen, k]
        z = data["logits"][seen, k]
        cut = THRESHOLDS[k]
        want = {
            "auroc": roc_auc_score(y, z, sample_weight=w),
            "average_precision": average_precision_score(y, z, sample_weight=w),
            "f1": f1_score(y, s >= cut, sample_weight=w),
            "f1_at_half": f1_score(y, s >= 0.5, sample_weight=w),
            "log_loss": log_loss(y, torch.sigmoid(z.double()), sample_weight=w),
            "brier": brier_score_loss(y, s.double(), sample_weight=w),
        }
        got = document["labels"][name]
        assert {key: got[key] for key in want} == pytest.approx(want, abs=ROUNDING)
        assert got["support"] == int(y.sum())
        assert got["rows"] == len(y)
        assert got["error_bound"] == {"auroc": 0.0, "average_precision": 0.0}
        per_label.append(want)
        support.append(float(w @ y.double()))
    for name in ("auroc", "average_precision"):
        assert document["macro"][name] == pytest.approx(np.mean([want[name] for want in per_label]), abs=ROUNDING)
        assert document["weighted"][name] == pytest.approx(
            np.average([want[name] for want in per_label], weights=support), abs=ROUNDING
        )
    assert document["labels"]["a"]["threshold"] == float(THRESHOLDS[0])
    assert document["labels"]["b"]["threshold"] is None
    assert document["labels"]["b"]["precision"] is None
    assert document["labels"]["b"]["f1"] == 0


def test_micro_pools_the_observed_cells() -> None:
    data = batch()
    seen = data["mask"] & (data["weights"] > 0)[:, None]
    w = data["weights"][:, None].expand_as(seen)[seen]
    y, z, s = data["labels"][seen], data["logits"][seen], data["scores"][seen]
    decisions = (data["scores"] >= THRESHOLDS)[seen]
    document = report(data)
    want = {
        "auroc": roc_auc_score(y, z, sample_weight=w),
        "average_precision": average_precision_score(y, z, sample_weight=w),
        "f1": f1_score(y, decisions, sample_weight=w),
        "f1_at_half": f1_score(y, s >= 0.5, sample_weight=w),
    }
    assert {key: document["micro"][key] for key in want} == pytest.approx(want, abs=ROUNDING)
    assert document["hamming_loss"] == pytest.approx(float(w @ (y != decisions).double() / w.sum()), abs=ROUNDING)
    ratio = float(w @ y.double() / (w @ s.double()))
    assert document["calibration"]["observed_expected"] == pytest.approx(ratio, abs=ROUNDING)


def test_one_class_is_undefined_and_left_out_of_the_macro_mean() -> None:
    document = report(batch())
    assert document["scored_labels"] == 3
    assert document["undefined_labels"] == ["d"]
    label = document["labels"]["d"]
    assert label["auroc"] is label["average_precision"] is label["recall"] is None
    assert label["error_bound"] == {"auroc": None, "average_precision": None}
    assert label["f1"] == label["precision"] == 0  # flagged in vain: defined, and bad
    assert document["undefined"]["auroc"] == document["undefined"]["recall"] == 1
    assert document["undefined"]["f1"] == 0
    assert document["undefined"]["precision"] == 1  # that of b, which is never flagged
    f1s = [label["f1"] for label in document["labels"].values()]
    assert document["macro"]["f1"] == document["macro_all"]["f1"] == pytest.approx(np.mean(f1s), abs=ROUNDING)


def test_macro_all_counts_undefined_as_zero() -> None:
    evaluation = Evaluation(torch.tensor([0.5, torch.nan]), num_bins=256)
    logits = torch.tensor([[2.0, -2.0], [-2.0, -3.0]])
    count_rows(evaluation, logits, scores_of(logits), torch.tensor([[1, 0], [0, 0]]))
    document = evaluation.report(["a", "b"], torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert document["labels"]["b"]["f1"] is None
    assert (document["macro"]["f1"], document["macro_all"]["f1"]) == (1.0, 0.5)


def test_gain_compares_with_the_prevalences_of_train() -> None:
    data = batch()
    document = report(data)
    constants = []
    for k in range(4):
        seen = data["mask"][:, k] & (data["weights"] > 0)
        constant = np.full(int(seen.sum()), float(PREVALENCES[k]))
        constants.append(
            log_loss(data["labels"][seen, k].long(), constant, sample_weight=data["weights"][seen], labels=[0, 1])
        )
    losses = [label["log_loss"] for label in document["labels"].values()]
    gains = [label["gain"] for label in document["labels"].values()]
    assert gains == pytest.approx([1 - a / b for a, b in zip(losses, constants, strict=True)], abs=ROUNDING)
    assert document["log_loss"] == pytest.approx(np.mean(losses), abs=ROUNDING)
    assert document["gain"] == pytest.approx(1 - np.mean(losses) / np.mean(constants), abs=ROUNDING)


def test_batches_merged_and_padded_give_the_same_document() -> None:
    data = batch()
    want = report(data)
    head = evaluated({name: value[:70] for name, value in data.items()})
    tail = {name: torch.cat([value[70:], value[:5]]) for name, value in data.items()}
    tail["weights"][-5:] = 0
    head.merge(evaluated(tail))
    head.sync()  # a single rank: nothing to do
    assert_close(head.report(NAMES, PREVALENCES), want)


def assert_close(got: Any, want: Any, tolerance: float = 1e-9) -> None:
    """Within 1e-9, because the steps of the recalibration end there."""
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        for key in want:
            assert_close(got[key], want[key], tolerance)
    elif isinstance(want, float | list):
        assert got == pytest.approx(want, abs=tolerance)
    else:
        assert got == want


def test_nothing_evaluated_is_undefined_throughout() -> None:
    document = report()
    assert document["rows"] == document["scored_labels"] == 0
    assert document["undefined_labels"] == NAMES
    for name in ("log_loss", "gain", "brier", "hamming_loss", "subset_accuracy"):
        assert document[name] is None
    assert {*document["macro"].values(), *document["ranking"].values(), *document["calibration"].values()} == {None}
    assert document["macro_all"] == {"f1": 0.0, "f1_at_half": 0.0}


def test_a_refused_batch_is_not_counted() -> None:
    data = batch()
    evaluation = evaluated(data)
    bad = {name: value.clone() for name, value in data.items()}
    bad["logits"][4] = torch.nan
    with pytest.raises(DataError, match="logits must be finite where a label is observed, got nan"):
        count_rows(evaluation, **bad)
    assert evaluation.report(NAMES, PREVALENCES) == report(data)


def test_names_are_one_a_label() -> None:
    with pytest.raises(ValueError, match="zip"):
        evaluated(batch()).report(["a"], PREVALENCES)


def test_a_batch_with_a_bad_score_is_not_counted() -> None:
    data = batch()
    evaluation = evaluated(data)
    scores = data["scores"].clone()
    scores[-1, :] = 7.0
    data["mask"][-1], data["weights"][-1] = True, 1.0
    with pytest.raises(DataError, match=r"scores must be probabilities from 0 to 1, got 7.0 for label 0"):
        count_rows(evaluation, **data | {"scores": scores})
    assert int(evaluation.rows.rows) == int((batch()["weights"] > 0).sum())
    assert evaluation.report(NAMES, PREVALENCES) == report(batch())


def test_decisions_can_be_taken_row_by_row() -> None:
    def best_of_row(scores: Tensor) -> Tensor:
        return scores == scores.amax(1, keepdim=True)

    data = batch()
    evaluation = Evaluation(THRESHOLDS, num_bins=4096, decide=best_of_row)
    count_rows(evaluation, **data)
    document = evaluation.report(NAMES, PREVALENCES)
    weight = data["weights"][:, None] * data["mask"]
    flagged = best_of_row(data["scores"])
    want = float((weight * flagged * data["labels"]).sum() / (weight * flagged).sum())
    assert document["micro"]["precision"] == pytest.approx(want, abs=ROUNDING)
    assert document["macro"]["f1_at_half"] == report(data)["macro"]["f1_at_half"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("by_label", [False, True])
def test_the_gpu_gives_the_same_document(by_label: bool) -> None:
    data = batch()
    if by_label:
        data = {name: value.t().contiguous().t() if value.dim() == 2 else value for name, value in data.items()}
    documents = []
    for device in ("cpu", "cuda"):
        evaluation = Evaluation(THRESHOLDS.to(device), num_bins=4096, replicates=50)
        count_rows(
            evaluation,
            **{name: value.to(device) for name, value in data.items()},
            identities=torch.arange(200, device=device),
        )
        documents.append(evaluation.report(NAMES, PREVALENCES))
    assert_close(documents[1], documents[0], 1e-5)  # the bootstrap sums in float32
