"""Draws docs/turn.svg: one turn of TMTA on eight training and two test rows.

python docs/draw_turn.py
"""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("svg")
from matplotlib import pyplot as plt

from zsg_jax.arrangement import tmta

matplotlib.rcParams.update({"svg.hashsalt": "turn", "svg.fonttype": "none", "font.size": 9})
ANGLES = {"train": [8, 18, 33, 47, 57, 76, 84, 102], "test": [25, 70]}
COLOURS = ["#2166ac", "#67a9cf", "#bdbdbd"]


def unit(side: str) -> np.ndarray:
    """Rows as directions, (N, 2)."""
    radians = np.deg2rad(ANGLES[side])
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def main() -> None:
    """Draws both sides as directions, and each turn in its colour."""
    train, test = unit("train"), unit("test")
    made = tmta(train, test)
    turn = dict(zip(made.order.tolist(), made.turn.tolist(), strict=True))
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    axes.set_aspect("equal")
    axes.axis("off")
    for x, y in test:
        axes.plot([0, 1.25 * x], [0, 1.25 * y], color="#b2182b", lw=1)
        axes.plot(1.25 * x, 1.25 * y, "D", color="#b2182b")
    for row, (x, y) in enumerate(train):
        colour = COLOURS[min(turn[row], 3) - 1]
        axes.plot([0, x], [0, y], color=colour, lw=1, zorder=0)
        axes.plot(x, y, "o", color=colour, ms=11)
        axes.annotate(str(turn[row]), (x, y), color="white", ha="center", va="center", fontsize=8)
    lines = [
        ("#b2182b", "test rows, of tasks never trained on"),
        (COLOURS[0], "turn 1: each test row's most similar training row"),
        (COLOURS[1], "turn 2: the most similar of those that are left"),
        (COLOURS[2], "later turns, until the budget is reached"),
    ]
    for place, (colour, text) in enumerate(lines):
        axes.plot(1.55, 1.1 - 0.22 * place, "o" if place else "D", color=colour)
        axes.annotate(text, (1.65, 1.1 - 0.22 * place), va="center")
    axes.annotate(
        "angle between two rows = how unlike they are", (1.55, 0.1), va="center", color="#555555"
    )
    axes.set_xlim(-0.4, 4.0)
    figure.savefig(
        Path(__file__).with_name("turn.svg"), bbox_inches="tight", metadata={"Date": None}
    )


if __name__ == "__main__":
    main()
