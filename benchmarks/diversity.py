"""The instruction-diversity study beside its peers, measured in one run.

    python benchmarks/diversity.py [rows | cell | cells | stack]

rows: 10⁶ rows of the paper's lengths as tokens, beside plain Python, of which 10,000 are measured
and counted up. cell: training steps of the small form, one cell on one core, beside the same model
in torch, on one and on all. cells: 8 cells of 20 steps together beside 8 runs of one, each of which
compiles its own program. stack: training steps of 32 cells of the small form as one array on a
GPU, beside one by one there, and beside torch one by one.
"""

import random
import string
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
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
STEPS, STACK, REPEATS = 40, 32, 5


def line(what: str, seconds: float, beside: str = "") -> str:
    """A line of a table."""
    return f"{what:44}{seconds:10.3f} s  {beside}"


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


def stack() -> None:
    """32 cells as one array, and one by one, on a card."""
    if jax.default_backend() != "gpu":
        print("skipped: no GPU that JAX finds")
        return
    grid = [Cell(rules=256, seed=seed) for seed in range(STACK)]
    settings = Settings(Recipe(steps=2 * STEPS, warmup_steps=5), Scoring(rows=64, rules=64))
    data = [
        CellData(cell, settings.scoring, letters=26, form="compact", steps=2 * STEPS, batch_size=64)
        for cell in grid
    ]
    writer, rates = data[0].writer, settings.recipe.rates() * np.float32(4e-3)
    config = model_config("small", len(writer.vocabulary), writer.length)
    found = {}
    for name, where in (("as one", sweep.plan(STACK, STACK).stacked), ("one by one", None)):
        program = Program(config, settings.recipe, writer.prompt, where)
        own = data if where else data[:1]
        laid = [
            jax.device_put(
                _stacked([one.steps(at, STEPS) for one in own], rates[at : at + STEPS], where),
                where,
            )
            for at in (0, STEPS)
        ]
        state = program.initialize(np.arange(STACK, dtype=np.uint32) if where else np.uint32(0))
        state, losses = program.train(state, *laid[0])
        np.asarray(losses)
        start = time.perf_counter()
        for _ in range(REPEATS):
            state, losses = program.train(state, *laid[1])
        np.asarray(losses)
        taken = (time.perf_counter() - start) / REPEATS / STEPS
        found[name] = taken * (1 if where else STACK)
    tokens = data[0].steps(0, STEPS)[0].astype(np.int64)
    peers = {
        f"torch{', compiled' * compiled}, one by one": STACK
        * Peer(config, 1, compiled=compiled, device="cuda").seconds(tokens)
        for compiled in (False, True)
    }
    ours = found["as one"]
    print(line(f"{STACK} cells as one array, a step", ours))
    for name, seconds in {"one by one": found["one by one"], **peers}.items():
        print(line(f"{STACK} cells, {name}", seconds, f"{seconds / ours:.2f} ×"))
    print(verdict("one by one over one array", found["one by one"] / ours, 10, at_most=False))
    print(
        verdict(
            "the fastest of torch over one array", min(peers.values()) / ours, 15, at_most=False
        )
    )


def _stacked(steps: list[Any], rates: np.ndarray, stacked: Any) -> Any:
    """Tokens, lengths and rates of cells, with a leading axis of cells where they are stacked."""
    tokens, lengths = (np.stack(one) for one in zip(*steps, strict=True))
    whole = tokens, lengths, np.stack([rates] * len(steps))
    return whole if stacked else tuple(one[0] for one in whole)


CASES = {"rows": rows, "cell": cell, "cells": cells, "stack": stack}


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
