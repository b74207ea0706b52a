"""What the pictures of the lessons share: colours that everyone can tell apart, sizes, and where the file goes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREEN, PURPLE, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"
"""Of the palette of Okabe and Ito (2008): told apart with every kind of colour vision."""

STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "font.size": 10,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "lines.linewidth": 2,
    "savefig.dpi": 150,
}


def asked_for(lesson: str | None) -> Path | None:
    """The FILE of `--picture FILE`, or None where no picture was asked for."""
    parser = argparse.ArgumentParser(description=(lesson or "").partition("\n")[0])
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write the picture of this lesson, a PNG")
    return parser.parse_args().picture


def page(columns: int = 1, **shared: Any) -> tuple[Any, Any]:
    """A figure with axes beside each other, in our style; `figure.savefig` writes it."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit("--picture needs matplotlib: pip install matplotlib") from None
    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(6.4 if columns == 1 else 4.4 * columns, 4), layout="constrained")
    return figure, figure.subplots(1, columns, **shared)


def probability_colours() -> Any:
    """Colours of the probabilities from 0 to 1: blue, white at ½, orange."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("probability", [BLUE, "#FFFFFF", ORANGE])
