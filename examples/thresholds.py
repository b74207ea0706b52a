"""A threshold other than ½: what a mistake costs decides where to cut, and not the model.

A disease that 5% have. Overlooking it costs 20, a needless examination 1. With true probabilities one should examine
where p · 20 > (1 − p) · 1, above 1/21 = 0.048, and not above ½, which overlooks most of the ill.
`mlclf.tune_thresholds` finds that cut from scores and labels alone. It has its price: more people are examined.

    python examples/thresholds.py --picture thresholds.png
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pictures import BLACK, BLUE, GREEN, ORANGE, asked_for, page

import mlclf

NEEDLESS, OVERLOOKED = 1, 20
ROWS = 100_000


def main(picture: Path | None) -> None:
    scores, ill = made_people(seed=0)
    tuned = mlclf.tune_thresholds(scores, ill, objective=f"cost:{NEEDLESS},{OVERLOOKED}").thresholds.item()
    scores, ill = made_people(seed=1)  # others than those that the threshold was tuned on
    print("threshold   examined   of the ill found   precision   cost of 1,000 people")
    for threshold in (0.5, NEEDLESS / (NEEDLESS + OVERLOOKED), tuned):
        flagged = scores >= threshold
        found, precision = flagged[ill].mean(), ill[flagged].mean()
        cost = cost_of(scores, ill, threshold)
        print(f"{threshold:9.4f}   {flagged.mean():8.1%}   {found:16.1%}   {precision:9.1%}   {cost:20.0f}")
    print(
        f"Nobody examined costs {1000 * OVERLOOKED * ill.mean():.0f}, everybody {1000 * NEEDLESS * (~ill).mean():.0f}."
    )
    if picture:
        draw(picture, scores, ill, tuned)


def made_people(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True probabilities [n] float32 as a good model would give them, and who is ill [n]."""
    rng = np.random.default_rng(seed)
    scores = (1 / (1 + np.exp(-rng.normal(-4.1, 1.7, ROWS)))).astype(np.float32)
    return scores, rng.random(ROWS) < scores


def cost_of(scores: np.ndarray, ill: np.ndarray, threshold: float) -> float:
    """Cost of 1,000 people of whom those with a score of at least `threshold` are examined."""
    flagged = scores >= threshold
    return 1000 * float((NEEDLESS * (flagged & ~ill) + OVERLOOKED * (~flagged & ill)).mean())


def draw(path: Path, scores: np.ndarray, ill: np.ndarray, tuned: float) -> None:
    figure, axes = page()
    cuts = np.geomspace(0.001, 0.95, 150)
    axes.plot(cuts, [cost_of(scores, ill, cut) for cut in cuts], color=BLUE)
    places = (
        ("best in theory, 1/21", 1 / 21, ORANGE, "s"),
        ("tuned on others", tuned, GREEN, "^"),
        ("½", 0.5, BLACK, "o"),
    )
    for name, threshold, colour, marker in places:
        cost = cost_of(scores, ill, threshold)
        axes.plot(threshold, cost, marker, color=colour, markersize=9, label=f"{name}: cost {cost:.0f}")
    axes.set(xscale="log", xlabel="threshold", ylabel="cost of 1,000 people", ylim=(0, None))
    axes.set(xticks=[0.001, 0.01, 0.1, 0.5], xticklabels=["0.001", "0.01", "0.1", "0.5"], title="Where to cut")
    axes.legend(loc="lower left")
    figure.savefig(path)


if __name__ == "__main__":
    main(asked_for(__doc__))
