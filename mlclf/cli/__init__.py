"""The command line: reads argv, prints; everything else is in the library."""

from __future__ import annotations

import os
import signal
import sys

from mlclf.cli import commands, score_commands  # noqa: F401  # they are the commands
from mlclf.cli.app import app
from mlclf.cli.arguments import spread_arguments
from mlclf.cli.output import Terminated, complain, explain, safe_text

__all__ = ["main", "safe_text", "spread_arguments"]


def main() -> None:
    """Run the command line and exit with the code of the contract."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads must not burn the cores of others
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        code = app(spread_arguments(sys.argv[1:]), standalone_mode=False)
        if code == 130:  # typer has caught the KeyboardInterrupt
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        complain("stopped by SIGINT")
        sys.exit(130)
    except Terminated:
        complain("stopped by SIGTERM")
        sys.exit(143)
    except SystemExit:
        raise
    except BaseException as error:
        sys.exit(explain(error))


def _on_sigterm(signum: int, frame: object) -> None:
    raise Terminated
