"""Save and load of all that must survive a restart of mini-batch training: one safetensors file an epoch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mlclf.errors import CheckpointError
from mlclf.files import write_bytes

FORMAT_VERSION = 1
NAME = "last.safetensors"


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write the checkpoint of an epoch in place of the one before, whole or not at all.

    Args:
        tensors: by name; copied to the CPU.
        state: what is not a tensor, JSON-able.
    """
    document = json.dumps({"format_version": FORMAT_VERSION} | dict(state))
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(folder / NAME, save(contiguous, metadata={"mlclf": document}))


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and state of the last checkpoint, or None where there is none.

    Raises:
        CheckpointError: the file is damaged or of another format.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["mlclf"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint cannot be read ({error}); start again with --overwrite"
        ) from error
    if state.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: checkpoint format {state.get('format_version')!r}, this release reads {FORMAT_VERSION}; "
            "start again with --overwrite"
        )
    return tensors, state


def flat_optimizer(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of an optimizer's state_dict under flat names: `INDEX.FIELD`."""
    return {
        f"optimizer.{index}.{field}": value
        for index, fields in state["state"].items()
        for field, value in fields.items()
        if isinstance(value, Tensor)
    }


def nested_optimizer(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The inverse of `flat_optimizer`: the `state` of a state_dict."""
    result: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        prefix, _, rest = name.partition(".")
        if prefix == "optimizer":
            index, _, field = rest.partition(".")
            result.setdefault(int(index), {})[field] = value
    return result
