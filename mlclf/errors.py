"""The errors that a user can meet. Each message says what must hold, what was found, where, and what to do."""

from __future__ import annotations

from mlclf.addresses import hidden
from mlclf.messages import safe, shortened


class MlclfError(Exception):
    """Base of all errors that a user can fix; the command line prints the message and exits with `exit_code`."""

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        """Take the message without secrets, safe for a terminal, long pieces of data in it cut."""
        super().__init__(shortened(safe(hidden(message))))


class DataError(MlclfError):
    """The data cannot be used: missing, malformed, or not what the columns, labels or the run require."""


class CorruptDataError(DataError):
    """Bytes of a file are damaged; `data.on_corrupt=skip` sets them aside."""


class RemoteError(DataError, OSError):
    """The network or the storage service failed. The file itself may be sound, so nothing may set it aside."""


class ChangedDataError(DataError):
    """A file is no longer the one that was there when the job began; nothing may set it aside."""


class ConfigError(MlclfError):
    """An argument or a setting is unknown, out of range, or contradicts another."""


class RunError(MlclfError):
    """A run folder is missing, damaged, or of another format."""


class CheckpointError(RunError):
    """A checkpoint does not fit the data or the settings that it is resumed with."""


class TrainingError(MlclfError):
    """Training stopped at a loss or an input that is not finite."""

    exit_code = 1


class FullDiskError(MlclfError):
    """The disk is full.

    Attributes:
        resume: whether the same command goes on with `--resume` once there is room; without it, it starts again.
    """

    exit_code = 1

    def __init__(self, message: str, resume: bool = False) -> None:
        super().__init__(message)
        self.resume = resume
