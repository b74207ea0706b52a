"""The head is a linear map of dense inputs and of the one-hot vector of its ids, without that vector."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mlclf.training.models import LinearHead, head_from_columns

ROWS, DENSE, VOCABULARY, LABELS = 7, 3, 11, 4


def filled(head: LinearHead) -> LinearHead:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return head


def inputs(weighted: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([2, 0, 3, 1, 0, 4, 1])
    ids = torch.randint(VOCABULARY, (int(lengths.sum()),), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    values = torch.randn(len(ids), generator=generator) if weighted else None
    return torch.randn(ROWS, DENSE, generator=generator), ids, offsets, values


def one_hot(ids: Tensor, offsets: Tensor, values: Tensor | None) -> Tensor:
    """The slow oracle: [B, V], ids that a row repeats add up."""
    hot = torch.zeros(ROWS, VOCABULARY)
    for row in range(ROWS):
        for place in range(int(offsets[row]), int(offsets[row + 1])):
            hot[row, ids[place]] += 1.0 if values is None else values[place]
    return hot


@pytest.mark.parametrize("weighted", [False, True])
def test_the_bag_is_the_one_hot_matrix(weighted: bool) -> None:
    head = filled(LinearHead(DENSE, VOCABULARY, LABELS))
    dense, ids, offsets, values = inputs(weighted)
    assert head.embedding is not None
    expected = dense @ head.linear.weight.T + head.linear.bias + one_hot(ids, offsets, values) @ head.embedding.weight
    torch.testing.assert_close(head(dense, ids, offsets, values), expected)


@pytest.mark.parametrize("hidden", [(), (5,), (6, 2)])
@pytest.mark.parametrize(("dense", "vocabulary"), [(DENSE, VOCABULARY), (DENSE, 0), (0, VOCABULARY)])
def test_shapes(hidden: tuple[int, ...], dense: int, vocabulary: int) -> None:
    head = LinearHead(dense, vocabulary, LABELS, hidden)
    values, ids, offsets, weights = inputs()
    if not vocabulary:
        ids, offsets, weights = ids[:0], torch.zeros(ROWS + 1, dtype=torch.int64), None
    assert head(values[:, :dense], ids, offsets, weights).shape == (ROWS, LABELS)
    first = hidden[0] if hidden else LABELS
    assert head.linear.weight.shape == (first, dense)
    assert (head.embedding is None) == (vocabulary == 0)
    if head.embedding is not None:
        assert head.embedding.weight.shape == (vocabulary, first)
    assert [layer.weight.shape[0] for layer in head.layers] == [*hidden[1:], LABELS][: len(hidden)]
    assert head.last.weight.shape[0] == LABELS


@pytest.mark.parametrize("hidden", [(), (5,), (6, 2)])
def test_training_starts_from_logits_of_zero(hidden: tuple[int, ...]) -> None:
    head = LinearHead(DENSE, VOCABULARY, LABELS, hidden)
    assert not head(*inputs()).any()
    if not hidden:
        assert not any(parameter.any() for parameter in head.parameters())


@pytest.mark.parametrize("hidden", [(), (6, 2)])
def test_penalties_never_reach_a_bias(hidden: tuple[int, ...]) -> None:
    head = LinearHead(DENSE, VOCABULARY, LABELS, hidden)
    biases = [parameter for name, parameter in head.named_parameters() if name.endswith("bias")]
    assert len(biases) == 1 + len(hidden)
    assert len(head.decayed()) + len(biases) == len(list(head.parameters()))
    assert not any(parameter is bias for parameter in head.decayed() for bias in biases)


@pytest.mark.parametrize("hidden", [(), (5,), (6, 2)])
def test_rescale_maps_every_logit(hidden: tuple[int, ...]) -> None:
    head = filled(LinearHead(DENSE, VOCABULARY, LABELS, hidden))
    before = head(*inputs()).detach()
    slope, intercept = torch.tensor([1.0, 0.5, 2.0, 0.1]), torch.tensor([0.0, -3.0, 1.0, 2.0])
    head.rescale(slope, intercept)
    torch.testing.assert_close(head(*inputs()).detach(), before * slope + intercept)


def test_a_solution_becomes_a_head() -> None:
    columns = torch.randn(DENSE + VOCABULARY + 1, LABELS, dtype=torch.float64)
    head = head_from_columns(columns, DENSE, VOCABULARY, torch.arange(VOCABULARY))
    dense, ids, offsets, values = inputs()
    row = torch.cat([dense, one_hot(ids, offsets, values), torch.ones(ROWS, 1)], 1).double()
    torch.testing.assert_close(head(dense, ids, offsets, values).double(), row @ columns, rtol=1e-5, atol=1e-5)


def test_ids_that_no_row_has_get_no_weight() -> None:
    used = torch.tensor([1, VOCABULARY - 1])
    columns = torch.randn(DENSE + 2 + 1, LABELS, dtype=torch.float64)
    head = head_from_columns(columns, DENSE, VOCABULARY, used)
    assert head.embedding is not None
    expected = torch.zeros(VOCABULARY, LABELS)
    expected[used] = columns[DENSE:-1].float()
    torch.testing.assert_close(head.embedding.weight.detach(), expected, rtol=0, atol=0)
