"""The stages of a fit in their order, and the run folder, which appears whole or not at all."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import torch

from mlclf.config.optimizers import ExactSolver, Stepper
from mlclf.config.settings import RunFile
from mlclf.data.streaming.slab_cache import remove_cache
from mlclf.decisions.objectives.table import parse_objective
from mlclf.errors import ConfigError, MlclfError
from mlclf.files import is_full, write_json
from mlclf.fitting.full_batch import train_full_batch
from mlclf.fitting.held_out_decisions import HeldOutDecisions
from mlclf.fitting.mini_batch import train_mini_batch
from mlclf.fitting.optimizer_choice import chosen_optimizer, effects_of_the_budget, unused_settings
from mlclf.fitting.preparation.fit_data import FitData, read_statistics
from mlclf.fitting.preparation.fit_plan import plan_fit
from mlclf.fitting.preparation.fit_rows import ModelInputs, RowsInFiles
from mlclf.fitting.trained_models import TrainedModels
from mlclf.fitting.training_log import TrainingLog
from mlclf.outputs.output import claimed
from mlclf.progress import Progress
from mlclf.run_folder import CACHE, FORMAT_VERSION, WRITTEN, RunFolder


class FitJob:
    """One fit, from arguments to a finished run folder."""

    def __init__(self, run_file: RunFile, *, resume: bool, overwrite: bool) -> None:
        self.run_file, self.resume, self.overwrite = run_file, resume, overwrite
        self.arguments, self.settings = run_file
        self.device = _device(self.settings.runtime.device)

    def steps(self) -> Iterator[Progress]:
        """Run the fit, yielding progress; the run folder is complete at the end."""
        self._check()
        arguments = self.arguments
        out, read = Path(arguments.out or ""), [*(arguments.train or ()), *(arguments.valid or ())]
        with claimed(
            out, "fit", arguments=read, resume=self.resume, overwrite=self.overwrite, resumable=True
        ) as output:
            for note in output.said():
                yield Progress.warning("out", note)
            asked = yield from plan_fit(arguments, self.settings)
            data = yield from read_statistics(asked)
            for plan in data.asked.plans:
                output.keep_apart(plan.local_files())
            with output.opened(grows=True, names=WRITTEN, mark=False) as work:
                folder = RunFolder(work)
                try:
                    yield from self._fitted(data, folder)
                except BaseException as error:
                    output.goes_on = _can_go_on(folder, error)
                    raise
                finally:
                    remove_cache(folder.file(CACHE))
            for note in output.said():
                yield Progress.warning("out", note)
        yield Progress("done", note=f"run written to {out}")

    def _check(self) -> None:
        """Refuse what can be refused before any data is read."""
        parse_objective(self.settings.thresholds.objective)
        if not self.arguments.train or not self.arguments.labels:
            raise ConfigError("fit needs data and --labels; see 'mlclf fit --help'")

    def _fitted(self, data: FitData, folder: RunFolder) -> Iterator[Progress]:
        """Train, decide, and write the files of the run."""
        folder.write_config(self.run_file.without_secrets().to_yaml())
        aside = data.asked.plan.set_aside
        if aside:
            units = [{"place": unit.place, "rows": unit.rows, "reason": unit.reason} for unit in aside]
            write_json(folder.file("set_aside.json"), {"format_version": FORMAT_VERSION, "set_aside": units})
        trained = yield from self._trained(data, folder)
        yield from HeldOutDecisions(data, trained, self.run_file, folder).steps()

    def _trained(self, data: FitData, folder: RunFolder) -> Generator[Progress, None, TrainedModels]:
        optimizer = chosen_optimizer(self.settings, in_memory=data.fits_in_memory)
        files, log = RowsInFiles(data, self._cache(folder)), TrainingLog(folder)
        inputs = ModelInputs(data.statistics.features, files.in_memory() if data.fits_in_memory else files)
        yield Progress("training", note=data.summary(optimizer.name))
        for line in (*unused_settings(self.settings, optimizer), *effects_of_the_budget(data, optimizer)):
            yield Progress.warning("training", line)
        if isinstance(optimizer, ExactSolver):
            steps = train_full_batch(data, inputs, log, optimizer)
        else:
            assert isinstance(optimizer, Stepper)
            steps = train_mini_batch(
                data,
                files,
                inputs,
                log,
                checkpoints=folder.file("checkpoints"),
                optimizer=optimizer,
                device=self.device,
                resume=self.resume,
            )
        del inputs  # training may replace them by larger ones
        return (yield from steps)

    def _cache(self, folder: RunFolder) -> Path | None:
        """Folder for the cache of encoded rows: in the run while it is fitted, or as the settings say."""
        chosen = self.settings.runtime.cache
        if chosen == "off":
            return None
        return folder.file(CACHE) if chosen == "auto" else Path(chosen)


def _can_go_on(folder: RunFolder, error: BaseException) -> bool:
    """Whether a fit that ended early can be resumed: it was interrupted, or has a checkpoint."""
    is_refused = isinstance(error, MlclfError) or is_full(error)
    return not is_refused or folder.file("checkpoints").exists()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"runtime.device={name}: torch finds no CUDA device here; use 'auto' or 'cpu'")
    return device
