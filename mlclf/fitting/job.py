"""The order of a fit's stages, and the folder that appears whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import torch

from mlclf.config import FULL_BATCH, RunFile
from mlclf.data.steps import Progress
from mlclf.decisions.objectives import parse_objective
from mlclf.errors import ConfigError, MlclfError
from mlclf.files import folder_is_empty, swap_folder, write_json
from mlclf.fitting.cautions import effects_of_the_budget, unused_settings, wanted_algorithm
from mlclf.fitting.decided import Decided
from mlclf.fitting.full_batch import train_full_batch
from mlclf.fitting.mini_batch import MiniBatchFit
from mlclf.fitting.prepared import PreparedData
from mlclf.fitting.trained import Trained
from mlclf.runs import FORMAT_VERSION, RunFolder
from mlclf.training.losses import pos_weights

CACHE = "cache"


class FitJob:
    """One fit, from arguments to a finished run folder."""

    def __init__(self, run_file: RunFile, *, resume: bool, overwrite: bool) -> None:
        self.run_file, self.resume, self.overwrite = run_file, resume, overwrite
        self.arguments, self.settings = run_file
        self.device = _device(self.settings.runtime.device)

    def steps(self) -> Iterator[Progress]:
        """Do the job; yields progress, and leaves the run folder finished."""
        self._check()
        out = Path(self.arguments.out or "")
        self.data = PreparedData(self.arguments, self.settings)
        yield from self.data.prepare()
        replaces = self.overwrite and out.exists()
        work = out.resolve().parent / f".{out.name}.new-{secrets.token_hex(4)}" if replaces else out
        existed = work.exists()
        self.folder = RunFolder(work)
        try:
            work.mkdir(parents=True, exist_ok=True)
            self.folder.write_config(self.run_file.to_yaml())
            self._list_what_is_set_aside()
            self.data.cache = self._cache()
            trained = yield from self._train()
            yield from Decided(self.data, self.run_file, trained, self.folder).steps()
            shutil.rmtree(self.folder.file(CACHE), ignore_errors=True)
            if replaces:
                swap_folder(work, out)
        except BaseException as error:
            self._clean_up(replaces, existed, refused=isinstance(error, MlclfError))
            raise
        yield Progress("done", note=f"run written to {out}")

    def _check(self) -> None:
        """Refuse what can be refused before any data is read."""
        parse_objective(self.settings.thresholds.objective)
        if not self.arguments.train or not self.arguments.labels:
            raise ConfigError("fit needs data and --labels; see 'mlclf fit --help'")
        out = Path(self.arguments.out or "")
        if not (self.resume or self.overwrite) and not folder_is_empty(out):
            raise ConfigError(f"{out}: the folder is not empty; give another --out, or --resume or --overwrite")
        if self.overwrite and not folder_is_empty(out) and not RunFolder(out).started:
            raise ConfigError(f"{out}: --overwrite replaces runs only, and this folder is none; give another --out")

    def _cache(self) -> Path | None:
        """The folder for encoded rows: inside the run while it is fitted, or the one that the settings name."""
        chosen = self.settings.runtime.cache
        if chosen == "off":
            return None
        return self.folder.file(CACHE) if chosen == "auto" else Path(chosen)

    def _list_what_is_set_aside(self) -> None:
        aside = self.data.plan.set_aside
        if aside:
            units = [{"place": unit.place, "rows": unit.rows, "reason": unit.reason} for unit in aside]
            write_json(self.folder.file("set_aside.json"), {"format_version": FORMAT_VERSION, "set_aside": units})

    def _clean_up(self, replaces: bool, existed: bool, refused: bool) -> None:
        """Leave what was there before; but a new run that was stopped, or has a checkpoint, stays to be resumed."""
        shutil.rmtree(self.folder.file(CACHE), ignore_errors=True)
        if replaces:
            shutil.rmtree(self.folder.path, ignore_errors=True)
        elif refused and not self.resume and not self.folder.file("checkpoints").exists():
            for name in ("config.yaml", "log.jsonl", "steps.jsonl", "set_aside.json"):
                self.folder.file(name).unlink(missing_ok=True)
            if not existed:
                shutil.rmtree(self.folder.path, ignore_errors=True)

    def _train(self) -> Generator[Progress, None, Trained]:
        data, settings = self.data, self.settings
        final = data.totals.of(data.hold_out.final())
        names = data.statistics.label_names
        pos_weight = pos_weights(settings.loss.pos_weight, final.positives[0], final.totals[0], names)
        data.hold()
        algorithm = wanted_algorithm(settings, in_memory=data.resident is not None)
        yield Progress("training", note=data.summary(algorithm))
        for line in (*unused_settings(settings, algorithm), *effects_of_the_budget(data, settings, algorithm)):
            yield Progress.warning("training", line)
        if algorithm in FULL_BATCH:
            log = self.folder.file("log.jsonl")
            return (yield from train_full_batch(data, settings, pos_weight, log, algorithm=algorithm))
        fit = MiniBatchFit(
            data, settings, pos_weight, self.folder, algorithm=algorithm, device=self.device, resume=self.resume
        )
        return (yield from fit.run())


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"runtime.device={name}: torch finds no CUDA device here; use 'auto' or 'cpu'")
    return device
