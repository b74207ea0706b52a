"""What the command line prints: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable
from typing import Any

import typer

from mlclf.addresses import hidden
from mlclf.messages import command, safe, shortened


def safe_text(text: str) -> str:
    """Text without secrets, control characters but line breaks escaped, so that data cannot steer the terminal."""
    return safe(hidden(text))


def print_text(text: str) -> None:
    print(safe_text(text))


def complain(text: str) -> None:
    lines = shortened(safe_text(text)).rstrip("\n").split("\n")
    print("\n".join(["error: " + lines[0], *("  " + line for line in lines[1:])]), file=sys.stderr, flush=True)


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print_text(line)


def print_json(document: dict[str, Any]) -> None:
    """Print JSON, its strings escaped."""
    import json

    print(json.dumps(document, indent=1))


def _again(resume: bool) -> str:
    """This command once more, as a shell takes it; secrets in it are left out."""
    more = ["--resume"] if resume and "--resume" not in sys.argv else []
    return hidden(command("mlclf", *sys.argv[1:], *more))


def explain(error: BaseException) -> int:
    """Print one readable block for an error, and return the exit code."""
    from mlclf.errors import FullDiskError, MlclfError

    if "--debug" in sys.argv and not isinstance(error, typer.Exit):
        print(safe_text("".join(traceback.format_exception(error))), file=sys.stderr)
    if isinstance(error, typer.Exit):
        return int(error.exit_code)
    if isinstance(error, typer.Abort):
        complain("stopped by SIGINT")
        return 130
    if hasattr(error, "format_message"):  # wrong usage, by typer's own classes, which it does not export
        if not sys.argv[1:]:
            print(error.format_message(), file=sys.stderr)  # the help
            return 2
        complain(f"{error.format_message()}\nsee 'mlclf --help' and 'mlclf COMMAND --help'")
        return 2
    if isinstance(error, FullDiskError):
        complain(f"{error}\n{_again(error.resume)}")
        return error.exit_code
    if isinstance(error, MlclfError):
        complain(str(error))
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, OSError):
        complain(f"{error.filename or 'the system'}: {error.strerror or error}")
        return 1
    complain(f"unexpected {type(error).__name__}: {error}\nthis is a defect of mlclf; --debug shows where it happened")
    return 1
