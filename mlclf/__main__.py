"""`python -m mlclf`, which imports nothing from the current folder: data folders may hold a `csv.py`."""

import os
import sys

if __name__ == "__main__":
    if sys.path[0] in ("", os.getcwd()):  # noqa: PTH109  # pathlib is not loaded yet, and may be a file of the folder
        del sys.path[0]
    from mlclf.cli import main

    main()
