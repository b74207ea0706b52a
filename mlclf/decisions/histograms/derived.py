"""Histograms made of others: all labels pooled, bins joined, weights changed, some rows left out, parts summed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlclf.decisions.histograms.counting import MOST_ROWS
from mlclf.decisions.histograms.label_histogram import LabelHistogram


def pooled_labels(histogram: LabelHistogram) -> LabelHistogram:
    """Return a histogram of one label that holds the cells of all labels."""
    pool = _like(histogram, 1, histogram.num_bins)
    for labels in histogram.label_slices(32):
        bins = histogram.window(labels)
        pool.counts[..., bins] += histogram.counts[labels, :, bins].sum(0, keepdim=True, dtype=pool.counts.dtype)
        if histogram.keeps_squares:
            pool.squares[..., bins] += histogram.squares[labels, :, bins].sum(0, keepdim=True)
        least, greatest = histogram.ends(labels, bins)
        pool.least[0, bins] = torch.minimum(pool.least[0, bins], least.amin(0))
        pool.greatest[0, bins] = torch.maximum(pool.greatest[0, bins], greatest.amax(0))
    pool.positive_rows = histogram.positive_rows.sum(0, keepdim=True)
    pool.rows = histogram.rows.sum(0, keepdim=True)
    pool.weighted_squares = histogram.weighted_squares.sum(0, keepdim=True)
    pool.weighted_rows = histogram.weighted_rows.sum(0, keepdim=True)
    return pool


def joined_bins(histogram: LabelHistogram, num_bins: int) -> LabelHistogram:
    """Return the same counts in fewer bins, each of which joins as many neighbours, if it has more."""
    if histogram.num_bins <= num_bins:
        return histogram
    coarse = _like(histogram, histogram.num_labels, num_bins)
    shape = (histogram.num_labels, num_bins, -1)
    both = (histogram.num_labels, 2, num_bins, -1)
    coarse.counts = histogram.counts.view(both).sum(3, dtype=histogram.counts.dtype)
    if histogram.keeps_squares:
        coarse.squares = histogram.squares.view(both).sum(3)
    coarse.set_ends(histogram.least.view(shape).amin(2), histogram.greatest.view(shape).amax(2))
    coarse.positive_rows, coarse.rows = histogram.positive_rows.clone(), histogram.rows.clone()
    coarse.weighted_squares, coarse.weighted_rows = histogram.weighted_squares.clone(), histogram.weighted_rows.clone()
    return coarse


def scaled_weights(histogram: LabelHistogram, positives: Tensor, negatives: Tensor) -> LabelHistogram:
    """Return the histogram with the weights of the positive and negative rows of each label multiplied.

    Args:
        positives, negatives: [K] float64, above 0.
    """
    result = _like(histogram, histogram.num_labels, histogram.num_bins)
    result.widen()
    factors = torch.stack([negatives, positives], 1).double().to(histogram.counts.device)[:, :, None]
    result.counts = histogram.counts * factors
    if result.keeps_squares:
        result.squares = histogram.squared() * factors**2
    result.set_ends(histogram.least.clone(), histogram.greatest.clone())
    result.positive_rows, result.rows = histogram.positive_rows.clone(), histogram.rows.clone()
    result.weighted_squares = histogram.class_weights()[1] * factors[:, :, 0] ** 2
    result.weighted_rows = torch.stack([histogram.rows - histogram.positive_rows, histogram.positive_rows], 1).double()
    result.least_weight = histogram.least_weight * factors.min()
    result.greatest_weight = histogram.greatest_weight * factors.max()
    return result


def without_rows(histogram: LabelHistogram, part: LabelHistogram) -> LabelHistogram:
    """Return the histogram of the rows that are not in `part`; the ends of its bins stay those of all."""
    rest = _like(histogram, histogram.num_labels, histogram.num_bins)
    rest.counts = (histogram.counts - part.counts).clamp_(min=0)
    if histogram.keeps_squares:
        rest.squares = (histogram.squares - part.squared()).clamp_(min=0)
    rest.set_ends(*histogram.lazy_ends)
    rest.positive_rows, rest.rows = histogram.positive_rows - part.positive_rows, histogram.rows - part.rows
    rest.weighted_squares = (histogram.weighted_squares - part.weighted_squares).clamp_(min=0)
    rest.weighted_rows = histogram.weighted_rows - part.weighted_rows
    return rest


def summed(histograms: Sequence[LabelHistogram]) -> LabelHistogram:
    """Return one histogram of the rows of all."""
    total = LabelHistogram(histograms[0].num_labels, histograms[0].num_bins)
    for histogram in histograms:
        total.merge(histogram)
    return total


def _like(histogram: LabelHistogram, num_labels: int, num_bins: int) -> LabelHistogram:
    """An empty histogram as wide as another, of the same range of weights."""
    result = LabelHistogram(num_labels, num_bins, histogram.weighted, histogram.ends_dtype).to(histogram.rows.device)
    if histogram.counts.is_floating_point() or int(histogram.rows.sum()) > MOST_ROWS:
        result.widen()
    result.least_weight, result.greatest_weight = histogram.least_weight.clone(), histogram.greatest_weight.clone()
    return result
