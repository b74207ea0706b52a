"""`run.json`: which data, settings and choices made a run."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import torch

import mlclf
from mlclf.addresses import hidden
from mlclf.config.settings import Arguments, RunFile, Settings
from mlclf.data.parquet.plan import Plan
from mlclf.fitting.preparation.fit_data import FitData
from mlclf.fitting.trained_models import TrainedModels
from mlclf.run_folder import FORMAT_VERSION

OPTIONS = {"columns": "features"}
"""Arguments whose option on the command line has another name."""


def run_record(run_file: RunFile, data: FitData, trained: TrainedModels) -> dict[str, Any]:
    """The document of `run.json`: data, settings, and what the fit chose."""
    names = list(data.statistics.label_names)
    return {
        "format_version": FORMAT_VERSION,
        "version": mlclf.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_of(run_file),
        "data": _files(data.asked.plan),
        "valid_data": [] if data.asked.valid_plan is None else _files(data.asked.valid_plan),
        "rows": sum(data.statistics.rows.values()),
        "labels": names,
        "solver": trained.algorithm,
        "l2": _one_or_each(trained.l2.tolist(), names),
        "knots": trained.inputs.features.knots(),
        "knots_tried": trained.knots.tried,
        "knots_kept": trained.knots.kept,
        "certificate": trained.certificate,
        "plan": data.asked.plan.digest,
        "settings": _without_secrets(run_file.settings.model_dump(mode="json")),
        "packages": {"python": platform.python_version(), "torch": torch.__version__, "pyarrow": pa.__version__},
    }


def command_of(run_file: RunFile) -> str:
    """The command line that gives these arguments and settings, without defaults and secrets of URIs.

    >>> from mlclf.config.settings import load_run_file
    >>> command_of(load_run_file(None, ["train=my data.parquet", "labels=y", "out=run", "optimizer.l2=0.5"]))
    "mlclf fit 'my data.parquet' --labels y --out run --set optimizer.l2=0.5"
    """
    arguments = run_file.arguments.model_dump(mode="json", exclude_none=True)
    words = ["mlclf", "fit", *arguments.pop("train", [])]
    for name in (name for name in Arguments.model_fields if name in arguments):
        value = arguments[name]
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{OPTIONS.get(name, name).replace('_', '-')}", str(one)]
    for name, value in _changed(run_file.settings.model_dump(mode="json"), Settings().model_dump(mode="json")):
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(map(hidden, words))


def _without_secrets(value: Any) -> Any:
    """The same document with every URI in it without its secrets."""
    if isinstance(value, Mapping):
        return {name: _without_secrets(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return hidden(value) if isinstance(value, str) else value


def _changed(values: Mapping[str, Any], usual: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Dotted names and values of the settings that are not the default."""
    return [
        (f"{section}.{name}", value)
        for section, fields in values.items()
        for name, value in fields.items()
        if value != usual[section][name]
    ]


def _files(plan: Plan) -> list[dict[str, Any]]:
    return [
        {
            "path": shard.source.name,
            "bytes": shard.source.size_bytes,
            "rows": shard.rows,
            "sha256_of_footer": shard.footer_sha256,
        }
        for shard in plan.shards
    ]


def _one_or_each(values: list[float], names: list[str]) -> float | dict[str, float]:
    """One number if it is the same for all labels, else a number for each label."""
    return values[0] if len(set(values)) == 1 else dict(zip(names, values, strict=True))
