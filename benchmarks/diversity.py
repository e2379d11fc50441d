"""The instruction-diversity study beside its peers, measured in one run.

    python benchmarks/diversity.py [rows | cell | cells]

rows: 10⁶ rows of the paper's lengths as tokens, beside plain Python, of which 10,000 are measured
and counted up. cell: training steps of the small form, one cell on one core, beside the same model
in torch, on one and on all. cells: 8 cells of 20 steps together beside 8 runs of one, each of which
compiles its own program.
"""

import random
import string
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from measuring import load, machine, verdict
from torch_decoder import Peer

from zsg_jax.data.rewriting.drawing import Scoring
from zsg_jax.data.rewriting.forms import Writer
from zsg_jax.data.rewriting.rows import Draws, Rewrites
from zsg_jax.data.rewriting.rules import Language, check_unseen, draw_rules
from zsg_jax.diversity import sweep
from zsg_jax.diversity.cells import Cell, CellData
from zsg_jax.diversity.program import Program, Recipe, model_config
from zsg_jax.diversity.runs import Settings

ROWS, PLAIN, RULES = 1_000_000, 10_000, 10_000
STEPS = 40


def line(what: str, seconds: float, beside: str = "") -> str:
    """A line of a table."""
    return f"{what:44}{seconds:10.2f} s  {beside}"


def ours_rows() -> float:
    """Seconds for 10⁶ rows with their rules, as tokens, a chunk at a time."""
    start = time.perf_counter()
    language = Language(20, 20, 50)
    rng = np.random.default_rng(0)
    test = draw_rules(language, "free", 1000, rng)
    rules = draw_rules(language, "free", RULES, rng, unlike=test)
    check_unseen(rules, test)
    writer = Writer("compact", language)
    stream = Rewrites(language, rules, Draws(), rows=ROWS, seed=(0,))
    assert sum(len(writer.tokens(rows)[0]) for rows in stream) == ROWS
    return time.perf_counter() - start


def plain_rows() -> float:
    """Seconds for 10⁶ rows in plain Python, of those for fewer."""
    start = time.perf_counter()
    rng = random.Random(0)
    ids = {letter: i for i, letter in enumerate(string.ascii_lowercase + ">|=$")}

    def letters(count: int) -> str:
        return "".join(rng.choices(string.ascii_lowercase, k=count))

    rules = list({letters(20): letters(20) for _ in range(RULES)}.items())
    for number in range(PLAIN):
        x, y = rules[number % len(rules)]
        z = ""
        while z.count(x) != 1:
            at = rng.randrange(31)
            z = letters(at) + x + letters(30 - at)
        text = f"{x}>{y}|{z}={z.replace(x, y, 1)}$"
        assert len([ids[letter] for letter in text]) == 143 + 1
    return (time.perf_counter() - start) * ROWS / PLAIN


def rows() -> None:
    """Rows of the paper's lengths."""
    ours, plain = ours_rows(), plain_rows()
    print(line("rows, 10⁶", ours))
    print(line("plain Python, counted up", plain, f"{plain / ours:.1f} ×"))
    print(verdict("plain Python over ours", plain / ours, 100, at_most=False))


def cell_steps() -> tuple[float, Any, Any]:
    """Seconds a step of one cell, and its data and model."""
    recipe = Recipe(steps=2 * STEPS)
    data = CellData(Cell(), Scoring(), letters=26, form="compact", steps=2 * STEPS, batch_size=64)
    config = model_config("small", len(data.writer.vocabulary), data.writer.length)
    program = Program(config, recipe, data.writer.prompt)
    state = program.initialize(np.uint32(0))
    rates = recipe.rates() * np.float32(4e-3)
    state, losses = program.train(state, *data.steps(0, STEPS), rates[:STEPS])
    np.asarray(losses)
    start = time.perf_counter()
    state, losses = program.train(state, *data.steps(STEPS, STEPS), rates[STEPS:])
    np.asarray(losses)
    return (time.perf_counter() - start) / STEPS, data, config


def cell() -> None:
    """One cell, training steps."""
    ours, data, config = cell_steps()
    print(line("one cell, a step, one core", ours))
    tokens = data.steps(0, STEPS)[0].astype(np.int64)
    best = np.inf
    for threads in (1, sweep.plan(64, 1).at_once):
        for compiled in (False, True):
            name = f"torch, {threads} threads{', compiled' * compiled}"
            try:
                seconds = Peer(config, threads, compiled=compiled).seconds(tokens)
            except Exception as error:  # torch.compile needs a compiler of C++
                print(f"{name}: {type(error).__name__}")
                continue
            best = min(best, seconds)
            print(line(name, seconds, f"{seconds / ours:.2f} ×"))
    print(verdict("the fastest of torch over ours", best / ours, 1.2, at_most=False))


def cells() -> None:
    """8 cells in one run, and in 8."""
    steps = STEPS // 2
    settings = Settings(
        Recipe(steps=steps, warmup_steps=5), Scoring(rows=64, rules=64), every=steps
    )
    grid = [Cell(rules=256, seed=seed) for seed in range(8)]
    times = {}
    for name, groups in {"together": [grid], "one by one": [[one] for one in grid]}.items():
        times[name] = 0.0
        for group in groups:
            with TemporaryDirectory() as folder:
                start = time.perf_counter()
                sweep.run(group, settings, Path(folder))
                times[name] += time.perf_counter() - start
    ratio = times["one by one"] / times["together"]
    print(line("8 cells together", times["together"]))
    print(line("8 runs of one cell", times["one by one"], f"{ratio:.2f} ×"))
    print(verdict("8 runs over 8 cells", ratio, 1.1, at_most=False))


CASES = {"rows": rows, "cell": cell, "cells": cells}


def main() -> None:
    """Runs the cases that are named, or all."""
    before, start = load(), time.perf_counter()
    for name in sys.argv[1:] or CASES:
        print(f"diversity, {name}")
        CASES[name]()
    print(f"load of the machine {before} before, {load()} after; ", end="")
    print(f"{time.perf_counter() - start:.0f} s in all")
    print(machine())


if __name__ == "__main__":
    main()
