"""The order of a fit's stages, and the folder that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import torch

from mlclf.config.settings import FULL_BATCH, RunFile
from mlclf.data.streaming.slab_cache import remove_cache
from mlclf.decisions.objectives.table import parse_objective
from mlclf.errors import ConfigError, MlclfError
from mlclf.files import is_full, write_json
from mlclf.fitting.calibration_and_thresholds import Decided
from mlclf.fitting.cautions import effects_of_the_budget, unused_settings, wanted_algorithm
from mlclf.fitting.data_preparation import PreparedData
from mlclf.fitting.full_batch import train_full_batch
from mlclf.fitting.mini_batch import MiniBatchFit
from mlclf.fitting.trained_models import Trained
from mlclf.outputs.output import claimed
from mlclf.progress import Progress
from mlclf.run_folder import CACHE, FORMAT_VERSION, WRITTEN, RunFolder
from mlclf.training.losses import pos_weights


class FitJob:
    """One fit, from arguments to a finished run folder."""

    def __init__(self, run_file: RunFile, *, resume: bool, overwrite: bool) -> None:
        self.run_file, self.resume, self.overwrite = run_file, resume, overwrite
        self.arguments, self.settings = run_file
        self.device = _device(self.settings.runtime.device)

    def steps(self) -> Iterator[Progress]:
        """Do the job; yields progress, and leaves the run folder finished."""
        self._check()
        arguments = self.arguments
        out, read = Path(arguments.out or ""), [*(arguments.train or ()), *(arguments.valid or ())]
        with claimed(
            out, "fit", arguments=read, resume=self.resume, overwrite=self.overwrite, resumable=True
        ) as output:
            for note in output.said():
                yield Progress.warning("out", note)
            self.data = PreparedData(arguments, self.settings)
            yield from self.data.prepare()
            for plan in filter(None, (self.data.plan, self.data.valid_plan)):
                output.keep_apart(plan.local_files())
            with output.opened(grows=True, names=WRITTEN, mark=False) as work:
                self.folder = RunFolder(work)
                try:
                    yield from self._fitted()
                except BaseException as error:
                    output.goes_on = self._can_go_on(error)
                    raise
                finally:
                    remove_cache(self.folder.file(CACHE))
            for note in output.said():
                yield Progress.warning("out", note)
        yield Progress("done", note=f"run written to {out}")

    def _fitted(self) -> Iterator[Progress]:
        """Write the files of the run."""
        self.folder.write_config(self.run_file.without_secrets().to_yaml())
        self._list_what_is_set_aside()
        self.data.cache = self._cache()
        trained = yield from self._train()
        yield from Decided(self.data, self.run_file, trained, self.folder).steps()

    def _check(self) -> None:
        """Refuse what can be refused before any data is read."""
        parse_objective(self.settings.thresholds.objective)
        if not self.arguments.train or not self.arguments.labels:
            raise ConfigError("fit needs data and --labels; see 'mlclf fit --help'")

    def _can_go_on(self, error: BaseException) -> bool:
        """Whether a new run that ends early is worth to be resumed: one that has a checkpoint, or was stopped."""
        is_refused = isinstance(error, MlclfError) or is_full(error)
        return not is_refused or self.folder.file("checkpoints").exists()

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
