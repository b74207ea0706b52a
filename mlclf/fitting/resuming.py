"""Whether a checkpoint belongs to a fit: the same data with the same content, arguments, settings and stage."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from mlclf.config.settings import RunFile
from mlclf.data.parquet.plan import Plan
from mlclf.errors import CheckpointError, ConfigError
from mlclf.fitting.preparation.fit_data import FitData


def identity_of(data: FitData) -> dict[str, Any]:
    """What identifies a fit in its checkpoints, JSON-able: data, content, arguments and settings."""
    elsewhere = {"out": None, "train": None, "valid": None}  # the data is known by its content, wherever it is
    arguments = data.asked.arguments.model_copy(update=elsewhere)
    run_file = RunFile(arguments, data.asked.settings)
    return {
        "plan": [plan.digest for plan in data.asked.plans],
        "files": [plan.files() for plan in data.asked.plans],
        "contents": data.contents(),
        "settings": hashlib.sha256(run_file.to_yaml().encode()).hexdigest(),
    }


def check_identity(state: Mapping[str, Any], own: Mapping[str, Any], plans: Sequence[Plan], place: str) -> None:
    """Refuse the state of a checkpoint that differs from `own`, the identity and stage of this fit.

    Raises:
        ConfigError: the data has changed since.
        CheckpointError: it is of other arguments or settings, or of another stage.
    """
    wrong = [name for name in ("settings", "stage") if state[name] != own[name]]
    if wrong:
        what = {"settings": "other arguments or settings", "stage": f"the stage {state['stage']!r}"}[wrong[0]]
        raise CheckpointError(
            f"{place}: the checkpoint must be of this fit, found one of {what}; "
            "put config.yaml and checkpoints/ back as the fit wrote them, or start again with --overwrite"
        )
    differences = []
    for was, plan in zip(state["files"], plans, strict=False):
        differences.append(plan.difference(was))
    if not any(differences):
        for plan, was, now in zip(plans, state["contents"], own["contents"], strict=False):
            names = [shard.source.relative for shard in plan.shards]
            changed = [f"{name!r} has other contents" for name, a, b in zip(names, was, now, strict=False) if a != b]
            differences.append(", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else ""))
    found = ", ".join(filter(None, differences))
    if found or any(state[name] != own[name] for name in ("plan", "contents")):
        raise ConfigError(
            f"the data has changed since the checkpoint was written: {found or 'other files'}; "
            "put it back, or start again with --overwrite"
        )
