"""The command line: reads argv, prints; everything else is in the library.

app               the program that the commands belong to
arguments         options that commands share, and how the values of options are read
output            what the command line prints: results on stdout, errors on stderr
display           progress of a job on stderr
tables            metrics, thresholds and differences of thresholds as lines of text
commands          the commands that work on data: fit, predict, inspect, convert, split, shuffle, demo
score_commands    the commands that work on scores: evaluate and calibrate (of a run too), apply, diff
"""

from __future__ import annotations

import os
import signal
import sys

from mlclf.cli import commands, score_commands  # noqa: F401  # they are the commands
from mlclf.cli.app import app
from mlclf.cli.arguments import spread_arguments
from mlclf.cli.output import complain, explain, safe_text
from mlclf.machine.signals import Stopped, first_asked, signals_are_flags

__all__ = ["main", "safe_text", "spread_arguments"]


def main() -> None:
    """Run the command line and exit with the code of the contract."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads must not burn the cores of others
    with signals_are_flags():
        try:
            code = app(spread_arguments(sys.argv[1:]), standalone_mode=False)
            if code == 130:  # typer has caught a KeyboardInterrupt
                raise Stopped(signal.SIGINT)
        except SystemExit:
            raise
        except (KeyboardInterrupt, Stopped):
            stopped = Stopped(first_asked() or signal.SIGINT)
            complain(str(stopped))
            sys.exit(stopped.exit_code)
        except BaseException as error:
            sys.exit(explain(error))
