"""The run folder: paths, versions, hashes."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as pack_arrays
from safetensors.torch import load as load_tensors
from safetensors.torch import save as pack_tensors
from torch import Tensor

from mlclf.config.loading import load_run_file
from mlclf.config.settings import Settings
from mlclf.data.features.encoder import FeatureEncoder
from mlclf.data.schema.schema import Schema
from mlclf.decisions.calibration.logit_bounds import LogitBounds
from mlclf.decisions.histograms.folds import FoldHistograms
from mlclf.decisions.histograms.label_histogram import LabelHistogram
from mlclf.decisions.histograms.tables import histogram_of, table_of
from mlclf.decisions.thresholds.thresholds import Thresholds
from mlclf.errors import RunError
from mlclf.files import committed, read_json, safe_relative, sha256_of, write_bytes, write_json, write_text
from mlclf.given_files import read_given, reason_of
from mlclf.messages import command
from mlclf.outputs.output import settle_before_reading
from mlclf.training.models import LinearHead

FORMAT_VERSION = 1
FEATURES_VERSIONS = (1, 2, 3)
RECORD, MODEL = "run.json", "model.safetensors"
FITTED = (
    "config.yaml",
    "schema.json",
    "features.json",
    "features.safetensors",
    "model.safetensors",
    "histograms.parquet",
    "folds.parquet",
    RECORD,
)
"""Written once by `fit` and listed in the manifest with their SHA-256; the first runs have no record."""

UNLISTED = ("thresholds.json", "metrics.json")
"""Outside the manifest, since `calibrate` replaces them; checked by their content."""

CACHE = "cache"
WRITTEN = (
    *FITTED,
    "manifest.json",
    "thresholds.json",
    "metrics.json",
    "run.json",
    "log.jsonl",
    "steps.jsonl",
    "set_aside.json",
    "checkpoints/*/*.safetensors",
    f"{CACHE}/*/*.slab*",
)
"""Names and patterns of all that `fit` may write to a run."""


class RunSchema(NamedTuple):
    """What `schema.json` holds: the schema, label names [K], and prevalences of training [K] float64."""

    schema: Schema
    label_names: tuple[str, ...]
    prevalences: Tensor


@dataclass(frozen=True)
class RunFolder:
    """Where the files of a run are, and how each is written and read.

    Attributes:
        held: the content of files that were read already: see `opened`.
    """

    path: Path
    held: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def file(self, name: str) -> Path:
        return self.path / name

    @property
    def finished(self) -> bool:
        """Whether `fit` came to its end here."""
        return self.file("manifest.json").is_file()

    @property
    def started(self) -> bool:
        """Whether this is a run folder at all."""
        return self.file("config.yaml").is_file()

    def write_config(self, yaml: str) -> None:
        write_text(self.file("config.yaml"), yaml)

    def write_schema(self, schema: Schema, label_names: tuple[str, ...], prevalences: Tensor) -> None:
        document = schema.to_json() | {
            "label_columns": list(schema.labels),
            "label_names": list(label_names),
            "train_prevalences": prevalences.tolist(),
        }
        document["labels"] = list(label_names)
        write_json(self.file("schema.json"), document)

    def read_schema(self) -> RunSchema:
        document = self._json("schema.json", FORMAT_VERSION, "schema")
        try:
            names = tuple(document.pop("label_names"))
            prevalences = torch.tensor(document.pop("train_prevalences"), dtype=torch.float64)
            document["labels"] = document.pop("label_columns")
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{self.file('schema.json')}: is damaged ({error!r}); fit the run again") from error
        return RunSchema(Schema.from_json(document), names, prevalences)

    def write_features(self, features: FeatureEncoder) -> None:
        write_json(self.file("features.json"), features.to_json())
        write_bytes(self.file("features.safetensors"), pack_arrays(features.arrays()))

    def read_features(self) -> FeatureEncoder:
        document = self._json("features.json", FEATURES_VERSIONS, "features")
        return FeatureEncoder.from_json(document, load_arrays(self._content("features.safetensors")))

    def write_model(self, head: LinearHead, bounds: LogitBounds) -> None:
        tensors = {name: value.detach().float().cpu().contiguous() for name, value in head.state_dict().items()}
        if head.embedding is None:
            tensors["embedding.weight"] = torch.zeros(0, head.linear.out_features)
        if (bounds.low > -torch.inf).any() or (bounds.high < torch.inf).any():
            tensors |= {"calibration.low": bounds.low.float(), "calibration.high": bounds.high.float()}
        write_bytes(self.file("model.safetensors"), pack_tensors(tensors, {"format_version": str(FORMAT_VERSION)}))

    def read_model(self) -> tuple[LinearHead, LogitBounds]:
        path = self.file("model.safetensors")
        try:
            tensors = load_tensors(self._content("model.safetensors"))
            low, high = tensors.pop("calibration.low", None), tensors.pop("calibration.high", None)
            layers = sorted(name for name in tensors if name.startswith("layers.") and name.endswith("weight"))
            widths = [tensors["linear.weight"].shape[0], *(tensors[name].shape[0] for name in layers)]
            num_dense, vocabulary = tensors["linear.weight"].shape[1], tensors["embedding.weight"].shape[0]
            head = LinearHead(num_dense, vocabulary, widths[-1], widths[:-1])
            if head.embedding is None:
                tensors.pop("embedding.weight")
            head.load_state_dict(tensors)
        except (SafetensorError, OSError, KeyError, RuntimeError) as error:
            raise RunError(f"{path}: the model cannot be read ({error}); fit the run again") from error
        if low is None or high is None:
            return head, LogitBounds.none(widths[-1])
        return head, LogitBounds(low.double(), high.double())

    def write_histogram(self, histogram: LabelHistogram) -> None:
        with committed(self.file("histograms.parquet")) as path:
            pq.write_table(table_of(histogram), path, compression="zstd", write_page_checksum=True)

    def read_histogram(self) -> LabelHistogram:
        """The held-out logits of the fit."""
        return histogram_of(pq.read_table(pa.BufferReader(self._content("histograms.parquet"))))

    def write_folds(self, folds: FoldHistograms) -> None:
        with committed(self.file("folds.parquet")) as path:
            pq.write_table(folds.to_table(), path, compression="zstd", write_page_checksum=True)

    def read_folds(self) -> FoldHistograms:
        """The held-out logits of the fit in folds, by which thresholds are cross-validated."""
        return FoldHistograms.from_table(pq.read_table(pa.BufferReader(self._content("folds.parquet"))))

    def write_thresholds(self, thresholds: Thresholds, label_names: tuple[str, ...]) -> None:
        """Write the thresholds of the model, which has to be there already."""
        model = {"model": sha256_of(self.file(MODEL))}
        write_json(self.file("thresholds.json"), thresholds.to_json(list(label_names)) | model)

    def read_thresholds(self, label_names: tuple[str, ...]) -> Thresholds:
        """The thresholds in force.

        Raises:
            RunError: they were tuned for the model of another run.
        """
        document = self._json("thresholds.json", FORMAT_VERSION, "thresholds")
        model = document.get("model")
        if model is not None and model != hashlib.sha256(self._content(MODEL)).hexdigest():
            raise RunError(
                f"{self.file('thresholds.json')}: must be of this run's model, found thresholds that were tuned for "
                "another one; copy the run again, whole, or tune them anew with 'mlclf calibrate'"
            )
        return Thresholds.from_json(document, list(label_names))

    def read_metrics(self, label_names: tuple[str, ...]) -> dict[str, Any] | None:
        """Metrics of the held-out rows of the fit; None where none were held out.

        Raises:
            RunError: they are not those of these labels.
        """
        name = "metrics.json"
        if name not in self.held and not self.file(name).exists():
            return None
        document = self._json(name, FORMAT_VERSION, "metrics")
        labels, parts = document.get("labels"), ("macro", "micro", "macro_all", "ranking", "calibration")
        known = labels if isinstance(labels, dict) else {}
        entries = [*known.values(), *map(document.get, parts)]
        if known.keys() != set(label_names) or not all(isinstance(entry, dict) for entry in entries):
            raise RunError(
                f"{self.file(name)}: must hold metrics of this run's labels, found others; copy the run again, whole"
            )
        return document

    def read_settings(self) -> Settings:
        """The settings of the run."""
        return load_run_file(self.file("config.yaml"), content=self.held.get("config.yaml")).settings

    def write_record(self, document: Mapping[str, Any]) -> None:
        write_json(self.file(RECORD), document)

    def read_record(self) -> dict[str, Any] | None:
        """What made the run; None for one of before this was written down."""
        return self._json(RECORD, FORMAT_VERSION, "run") if self.file(RECORD).exists() else None

    def write_manifest(self, training: Mapping[str, Any]) -> None:
        """List the fitted files with their hashes; a run with a manifest is finished."""
        hashes = {name: sha256_of(self.file(name)) for name in FITTED}
        document = {"format_version": FORMAT_VERSION, "files": hashes, "training": dict(training)}
        write_json(self.file("manifest.json"), document)

    def opened(self) -> tuple[RunFolder, dict[str, Any]]:
        """Read every file once, check its hash, and return the folder with what was read, and the manifest.

        What is read of the result later comes from the same bytes, whatever becomes of the files.

        Raises:
            RunError: there is no run here, it is not finished, of another format, or a file was changed.
        """
        settle_before_reading(self.path)
        if not self.started:
            raise RunError(f"{self.path}: is not a run folder (it has no config.yaml); give the --out of a fit")
        if not self.finished:
            raise RunError(
                f"{self.path}: the fit of this run has not finished; go on with: "
                f"{command('mlclf', 'fit', '--resume', '--out', self.path)}"
            )
        manifest = read_json(self.file("manifest.json"), FORMAT_VERSION, "manifest")
        files = manifest.get("files")
        if not isinstance(files, dict) or set(files) | {RECORD} != set(FITTED):
            raise RunError(f"{self.file('manifest.json')}: must list {', '.join(FITTED)}; fit the run again")
        held = {}
        for name, expected in files.items():
            path = safe_relative(name, self.path)
            try:
                held[name] = read_given(path, sys.maxsize)
            except FileNotFoundError:
                raise RunError(f"{path}: is missing though the manifest lists it; copy the run again, whole") from None
            except OSError as error:
                raise RunError(f"{path}: cannot be read ({reason_of(error)}); copy the run again, whole") from None
            if hashlib.sha256(held[name]).hexdigest() != expected:
                raise RunError(f"{path}: has changed since fit wrote it (its SHA-256 differs); copy the run again")
        for name in UNLISTED:
            with suppress(FileNotFoundError):
                held[name] = read_given(self.file(name), sys.maxsize)
        return RunFolder(self.path, held), manifest

    def without(self, *names: str) -> RunFolder:
        """The same folder, holding less in memory."""
        return RunFolder(self.path, {name: content for name, content in self.held.items() if name not in names})

    def _content(self, name: str) -> bytes:
        found = self.held.get(name)
        return read_given(self.file(name), sys.maxsize) if found is None else found

    def _json(self, name: str, format_version: int | tuple[int, ...], what: str) -> dict[str, Any]:
        return read_json(self.file(name), format_version, what, self.held.get(name))


def log_line(record: Mapping[str, Any]) -> str:
    """One line of a JSON log."""
    return json.dumps(record, allow_nan=False)
