"""Refuse models that do not fit into memory, before any memory is taken."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from mlclf.config.optimizers import AUTO, OPTIMIZERS
from mlclf.config.settings import Settings
from mlclf.data.features.encoder import FeatureEncoder
from mlclf.data.features.fitted_column import EncodingOptions
from mlclf.data.features.roles import ROLES
from mlclf.data.schema.schema import Schema
from mlclf.errors import ConfigError
from mlclf.machine.memory import free_bytes
from mlclf.messages import quoted

FLOAT_BYTES = 4
COPIES = 5
"""Of the weights while they are trained in steps: weights, gradients, two moments, the best so far."""

ID_BYTES = 32
"""Of what is kept for each entry of the vocabulary by the exact solver, whatever the labels."""

FREE_SHARE = 0.25
"""Of the memory that is free, what a model may take where `runtime.memory_budget` does not allow more."""


def check_model_size(features: FeatureEncoder, num_labels: int, settings: Settings, num_models: int) -> None:
    """Refuse a model that this machine cannot hold.

    Args:
        features: with their vocabularies.
        num_labels: K.
        settings: of the fit.
        num_models: models that are trained side by side, at least.

    Raises:
        ConfigError: it takes more than the budget and a quarter of the free memory; names what makes it large.
    """
    hidden, inputs = settings.model.hidden, features.num_dense + features.vocabulary_size
    widths = [*hidden, num_labels]
    weights = inputs * widths[0] + sum(a * b for a, b in pairwise(widths)) + sum(widths)
    exact = not hidden and (settings.optimizer.name == AUTO or OPTIMIZERS[settings.optimizer.name].exact)
    needed = weights * FLOAT_BYTES * (2 if exact else COPIES * num_models)
    needed += features.vocabulary_size * ID_BYTES if exact else 0
    allowed = _allowed(settings)
    if needed > allowed:
        raise ConfigError(
            f"the model must fit into {allowed:,} bytes, a quarter of the free memory; {inputs:,} inputs"
            + (f", model.hidden={list(hidden[:5])}" if hidden else "")
            + f" and {num_labels:,} labels make {weights:,} weights, which take {needed:,} bytes; "
            + "; ".join(_remedies(features, settings))
            + "; or let it take as much with runtime.memory_budget"
        )


def _remedies(features: FeatureEncoder, settings: Settings) -> Iterable[str]:
    """What the user can do, by what takes most of the memory."""
    largest = max(features.columns, key=lambda column: column.vocabulary_size, default=None)
    if settings.model.hidden:
        yield "choose smaller widths in model.hidden"
    if largest is not None and largest.vocabulary_size > features.num_dense:
        remedy = f"column {quoted(largest.name, 80)} has {largest.vocabulary_size:,} of the inputs: "
        yield f"{remedy}{largest.smaller}, or leave it out with --exclude"
    elif not settings.model.hidden:
        yield "leave columns out with --exclude"


def check_buckets(schema: Schema, settings: Settings) -> None:
    """Refuse hash buckets that do not fit into memory while their counts are taken.

    Raises:
        ConfigError: they take more than the budget and a quarter of the free memory.
    """
    options = EncodingOptions.of(settings.features)
    sizes = [ROLES[column.role].fitting_bytes(options) for column in schema.features]
    needed, allowed = sum(sizes), _allowed(settings)
    if needed > allowed:
        raise ConfigError(
            f"features.hash_buckets={options.hash_buckets} must fit into {allowed:,} bytes, a quarter of the free "
            f"memory; {sum(map(bool, sizes))} columns of text take {needed:,} bytes; choose fewer buckets"
        )


def _allowed(settings: Settings) -> int:
    return max(int(FREE_SHARE * free_bytes()), settings.runtime.memory_budget)
