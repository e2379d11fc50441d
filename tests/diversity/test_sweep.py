"""Cells: alone, beside others, stacked, killed; and what their records say."""

import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from zsg_jax.data.rewriting.drawing import Scoring
from zsg_jax.data.rewriting.rows import CHUNK
from zsg_jax.diversity import runs, sweep
from zsg_jax.diversity.cells import Cell, CellData, grid
from zsg_jax.diversity.program import Program, Recipe, model_config
from zsg_jax.diversity.runs import Settings, ended, folder_of, score
from zsg_jax.evaluation.decoding import Sampling
from zsg_jax.evaluation.generation import Generator, Prompt
from zsg_jax.models.decoder import DecoderConfig
from zsg_jax.models.model import abstract, count
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import metrics, sharding

SETTINGS = Settings(
    Recipe(batch_size=16, steps=20, warmup_steps=5),
    Scoring(rows=40, rules=20, no_ops=0.3),
    letters=12,
    every=4,
    keep_every=8,
)
CELLS = grid({"rules": (8, 30), "lengths": ("2/2/5",), "seed": (0, 1)})


def tiny(name, vocab_size, length):
    return DecoderConfig("llama", vocab_size, 32, 48, 1, 2, 2, 16, length)


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    monkeypatch.setattr(sweep, "model_config", tiny)


def records(folder, cells=CELLS):
    assert all(ended(folder_of(folder, cell)) for cell in cells)
    return {cell: metrics.read_records(folder_of(folder, cell)) for cell in cells}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "model_config", tiny)
        sweep.run(CELLS, SETTINGS, folder)
    return folder


def test_a_cell_has_the_same_numbers_whatever_runs_beside_it(finished, tmp_path):
    alone = sweep.plan(1, 1)
    sweep.run(CELLS[2:3], SETTINGS, tmp_path, alone._replace(at_once=1))
    assert records(tmp_path, CELLS[2:3])[CELLS[2]] == records(finished)[CELLS[2]]


def test_cells_added_to_a_finished_grid_are_trained_alone(finished, tmp_path, monkeypatch):
    before = records(finished)
    new = Cell(rules=4, lengths="2/2/5")
    asked = []
    train = sweep._train
    monkeypatch.setattr(
        sweep, "_train", lambda group, *rest: asked.append(group) or train(group, *rest)
    )
    sweep.run([*CELLS, new], SETTINGS, finished)
    assert [[one.cell for one in group] for group in asked] == [[new]]
    assert records(finished) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.diversity import test_sweep as t
from zsg_jax.diversity import runs, sweep
sweep.model_config = t.tiny
left, keep = int(sys.argv[2]), runs.CellRun.keep
def keep_and_die(self, leaves):
    global left
    keep(self, leaves)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
runs.CellRun.keep = keep_and_die
sweep.run(t.CELLS[:2], t.SETTINGS, Path(sys.argv[1]))
"""


def test_the_seconds_of_cells_are_those_of_each_alone(tmp_path):
    started = time.perf_counter()
    sweep.run(CELLS, SETTINGS, tmp_path, sweep.plan(1, 1)._replace(at_once=1))
    took = time.perf_counter() - started
    ends = [ended(folder_of(tmp_path, cell)) for cell in CELLS]
    assert 0 < sum(one["seconds"] for one in ends) <= took + 0.01
    assert {one["how"] for one in ends} == {sweep.plan(1, 1).sentence}


def test_a_killed_sweep_goes_on_bit_for_bit(finished, tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "3"], check=False)
    assert done.returncode == -signal.SIGKILL
    steps = [runs.CellRun(cell, SETTINGS, tmp_path).step for cell in CELLS[:2]]
    assert 8 <= max(steps) < SETTINGS.recipe.steps
    sweep.run(CELLS[:2], SETTINGS, tmp_path)
    assert records(tmp_path, CELLS[:2]) == {cell: records(finished)[cell] for cell in CELLS[:2]}


def test_a_damaged_state_is_named_and_stepped_over(finished, tmp_path, monkeypatch, capfd):
    cell = CELLS[0]
    monkeypatch.setattr(runs.CellRun, "finish", lambda self: None)
    sweep.run([cell], SETTINGS, tmp_path)
    states = sorted((folder_of(tmp_path, cell) / "state").glob("*.safetensors"))
    assert [runs.CellRun(cell, SETTINGS, tmp_path).step, len(states)] == [16, 2]
    newest = folder_of(tmp_path, cell) / "state" / "state-0.safetensors"
    content = newest.read_bytes()
    newest.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert runs.CellRun(cell, SETTINGS, tmp_path).step == 8
    assert "does not have the checksum" in capfd.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(sweep, "model_config", tiny)
    sweep.run([cell], SETTINGS, tmp_path)
    assert records(tmp_path, [cell])[cell] == records(finished)[cell]


STACKED = """
import json, sys
import jax
from pathlib import Path
from tests.diversity import test_sweep as t
from zsg_jax.diversity import sweep
sweep.model_config = t.tiny
where = jax.sharding.NamedSharding(
    jax.make_mesh((2,), ("cells",)), jax.sharding.PartitionSpec("cells")
)
sweep.run(t.CELLS[:3], t.SETTINGS, Path(sys.argv[1]), sweep.Plan(where, 4, "stacked"))
print(json.dumps(None))
"""


@pytest.mark.ci
@pytest.mark.slow
def test_stacked_over_devices_is_alone_but_for_rounding(finished, tmp_path, on_devices):
    on_devices(2, STACKED, tmp_path)
    stacked, alone = records(tmp_path, CELLS[:3]), records(finished)
    for cell in CELLS[:3]:
        for one, other in zip(stacked[cell], alone[cell], strict=True):
            assert one.keys() == other.keys()
            for name in ("loss", "unseen_loss", "seen_loss"):
                if name in one:
                    assert one[name] == pytest.approx(other[name], rel=1e-4)
            assert one.get("rows_digest") == other.get("rows_digest")


def test_one_program_serves_all_cells_of_a_shape():
    recipe = SETTINGS.recipe
    cells = grid({"rules": (8, 30), "no_ops": (0.0, 0.5), "lengths": ("2/2/5",), "seed": (3,)})
    data = [
        CellData(c, SETTINGS.scoring, letters=12, form="compact", steps=20, batch_size=16)
        for c in cells
    ]
    writer = data[0].writer
    program = Program(tiny("", len(writer.vocabulary), writer.length), recipe, writer.prompt)
    for one, rate in zip(data, (1e-3, 2e-3, 3e-3, 4e-3), strict=True):
        state = program.initialize(np.uint32(one.language.z))
        tokens, lengths = one.steps(0, 4)
        program.train(state, tokens, lengths, np.full(4, rate, np.float32))
    assert len(program.compiled) == 2


def test_all_correct_under_teacher_forcing_is_greedy_decoding():
    recipe = Recipe(batch_size=64, steps=60, warmup_steps=10)
    cell = Cell(rules=2, lengths="1/1/2")
    scoring = Scoring(rows=200, rules=1, no_ops=0.5)
    data = CellData(cell, scoring, letters=3, form="compact", steps=60, batch_size=64)
    writer = data.writer
    config = tiny("", len(writer.vocabulary), writer.length)
    program = Program(config, recipe, writer.prompt)
    tokens, lengths = data.steps(0, 60)
    state, _ = program.train(
        program.initialize(np.uint32(0)), tokens, lengths, recipe.rates() * np.float32(1e-2)
    )
    graphdef, _ = abstract(config)
    mesh = sharding.make_mesh(1, 1, 1)
    placed = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    end = writer.vocabulary.index("$")
    most = writer.length - writer.prompt
    generate = Generator(graphdef, config, mesh, Sampling(most), eos=[end])
    rights = []
    for side in (data.seen, data.unseen):
        _, right = program.score(state.params, side.encoded.tokens)
        forced = (np.asarray(right) | ~side.encoded.answer_mask).all(axis=1)
        prompts = side.encoded.tokens[:, : writer.prompt].astype(np.int32)
        asked = [Prompt(one, str(i)) for i, one in enumerate(prompts)]
        written = generate(jax.device_put(state.params, placed), asked)
        greedy = [
            [*one.tokens, end] == row[writer.prompt : length].tolist() and one.ended == "eos"
            for one, row, length in zip(
                written, side.encoded.tokens, side.encoded.lengths, strict=True
            )
        ]
        assert forced.tolist() == greedy
        rights += greedy
    # A model that is right now and then, or this would show nothing.
    assert 0.1 < np.mean(rights) < 0.9


def test_scores_are_what_a_loop_over_rows_counts():
    cell = Cell(rules=20, lengths="4/3/9", families="free+repeat:2", list_length=2, limit=3)
    scoring = Scoring(rows=60, rules=10, no_ops=0.4)
    data = CellData(cell, scoring, letters=9, form="lines", steps=1, batch_size=1)
    side, rng = data.unseen, np.random.default_rng(0)
    losses, right = rng.random((2, *side.encoded.tokens.shape))
    right = right < 0.97
    got = score(side, losses, right)
    exact, letters, nats = {}, {"copied": [], "replaced": []}, []
    for i, length in enumerate(side.encoded.lengths):
        whole = True
        for at in range(data.writer.prompt, length):
            whole &= bool(right[i, at])
            nats.append(losses[i, at])
            if at < length - 1:
                key = "replaced" if side.encoded.replaced_mask[i, at] else "copied"
                letters[key].append(right[i, at])
        for key in ("exact", ("exact_no_op", "exact_applied")[int(side.applied[i])], side.kinds[i]):
            exact.setdefault(key, []).append(whole)
    for key in ("exact", "exact_no_op", "exact_applied"):
        assert got[key] == pytest.approx(np.mean(exact[key]))
    assert got["by_kind"] == {k: pytest.approx(np.mean(exact[k])) for k in ("free", "repeat:2")}
    assert {key: got[key] for key in letters} == {
        k: pytest.approx(np.mean(v)) for k, v in letters.items()
    }
    assert got["loss"] == pytest.approx(np.mean(nats))


def test_a_pool_is_met_again_in_new_orders_and_fresh_rows_never():
    def rows(samples, rules=50, steps=40):
        cell = Cell(rules=rules, samples=samples)
        data = CellData(
            cell, Scoring(rows=5, rules=5), letters=26, form="compact", steps=steps, batch_size=25
        )
        tokens = np.concatenate([data.steps(at, 10)[0] for at in range(0, steps, 10)])
        return [tuple(row) for row in tokens.reshape(-1, tokens.shape[-1]).tolist()]

    pool = rows(4)
    epochs = [pool[at : at + 200] for at in range(0, 1000, 200)]
    assert len(set(pool)) == 200
    assert all(sorted(one) == sorted(epochs[0]) for one in epochs)
    assert len({tuple(one) for one in epochs}) == 5
    assert len(set(rows(0))) == 1000
    long = CHUNK // 25 // 10 * 10 + 10
    assert len(set(rows(0, steps=long))) > 25 * long - 5


def test_learning_rates_rise_and_fall_as_told():
    rates = Recipe(steps=1200, warmup_steps=100, final_share=0.05).rates()
    assert rates[[0, 99, -1]].tolist() == pytest.approx([0.01, 1, 0.05])
    assert np.ptp(np.diff(rates[99:])) < 1e-6
    assert Recipe(steps=10, warmup_steps=0, final_share=0).rates()[-1] == 0


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"rules": ()}, "grid.rules is empty"),
        ({"rules": (5, 5)}, "names a value twice"),
        ({"rules": (0,)}, "rules=0 must be at least 1"),
        ({"lengths": ("3/3",)}, "give the letters of x, y and z as 3/3/10"),
        ({"occurrences": ("1-3",)}, "several as 1\\+2\\+3"),
    ],
)
def test_a_grid_of_nothing_is_refused(axes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        sweep.run(grid(axes), SETTINGS, tmp_path)


def test_a_loss_that_is_no_number_names_its_step(tmp_path):
    cell = Cell(rules=8, lengths="2/2/5", learning_rate=1e30)
    with pytest.raises(UserError, match=r"rules8,lengths-2-2-5,learning_rate.*: the loss of step"):
        sweep.run([cell], SETTINGS, tmp_path)


@pytest.mark.parametrize(("name", "size"), [("small", 601_472), ("gpt2", 4_754_432)])
def test_both_models_take_a_step_of_their_size(name, size):
    writer = CellData(
        Cell(lengths="3/3/10"), SETTINGS.scoring, letters=26, form="compact", steps=1, batch_size=4
    ).writer
    config = model_config(name, len(writer.vocabulary), writer.length)
    shapes = abstract(config)[1]
    assert count(shapes) == size
    program = Program(config, Recipe(), writer.prompt)
    rows = [
        jax.ShapeDtypeStruct(shape, kind) for shape, kind in (((2, 4, 30), "u1"), ((2, 4), "i4"))
    ]
    rates = jax.ShapeDtypeStruct((2,), "f4")
    state = jax.eval_shape(program._initialize, jax.ShapeDtypeStruct((), "u4"))
    after, losses = jax.eval_shape(
        lambda *a: program._train(writer.prompt, *a), state, *rows, rates
    )
    assert jax.tree.map(lambda one: one.shape, after) == jax.tree.map(lambda one: one.shape, state)
    assert losses.shape == (2,)
