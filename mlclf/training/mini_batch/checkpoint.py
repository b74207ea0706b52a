"""Checkpoints of mini-batch training: all that must survive a restart, in one safetensors file.

The file before the last is kept beside it, so that one which is damaged gives way to it. What cannot be told by reading
is told by a hash of everything in the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mlclf.errors import CheckpointError
from mlclf.files import parsed_json, write_bytes
from mlclf.messages import first_line

FORMAT_VERSION = 2
NAME = "last.safetensors"
BEFORE = "previous.safetensors"


class Checkpoint(NamedTuple):
    """A checkpoint that was loaded.

    Attributes:
        tensors, state: as they were given to `save_checkpoint`.
        problems: a line for each file that is newer, and why it is not taken.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    problems: list[str]


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write the checkpoint of an epoch, whole or not at all; the one before is kept beside it.

    Args:
        tensors: by name; copied to the CPU.
        state: what is not a tensor, JSON-able.
    """
    document = json.dumps({"format_version": FORMAT_VERSION} | dict(state))
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    content = save(contiguous, metadata={"mlclf": document, "sha256": _digest(document, contiguous)})
    if (folder / NAME).exists():
        (folder / NAME).replace(folder / BEFORE)
    write_bytes(folder / NAME, content)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The last checkpoint that is intact, or None if there is none at all.

    A state without tensors means that all of them are damaged.

    Raises:
        CheckpointError: a file is of another format, and the one before it is not whole either.
    """
    problems, of_others = [], []
    for path in (folder / NAME, folder / BEFORE):
        if not path.exists():
            continue
        try:
            tensors, state = _read(path)
        except (SafetensorError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            problems.append(f"{path}: the checkpoint is damaged ({first_line(error)})")
            continue
        if state["format_version"] == FORMAT_VERSION:
            return Checkpoint(tensors, state, problems)
        version = state["format_version"]
        of_others.append(
            f"{path}: checkpoint format {version!r}, this release reads {FORMAT_VERSION}; start again with --overwrite"
        )
        problems.append(f"{path}: the checkpoint is damaged (or of another release: its format is {version!r})")
    if of_others:
        raise CheckpointError(of_others[0])
    return Checkpoint({}, {}, problems) if problems else None


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of a file; the state alone if it is of another format."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    described = parsed_json(content[8 : 8 + size])["__metadata__"]
    document = described["mlclf"]
    state: dict[str, Any] = parsed_json(document.encode())
    if state["format_version"] != FORMAT_VERSION:
        return {}, state
    tensors = load(content)
    if _digest(document, tensors) != described["sha256"]:
        raise ValueError("its SHA-256 differs")
    return tensors, state


def _digest(document: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(document.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
