"""The second study from its config to its page, as small as it gets."""

import csv
import importlib.util

import pytest

from zsg_jax.config import default_config
from zsg_jax.config_diversity import diversity_config
from zsg_jax.diversity import sweep
from zsg_jax.models.decoder import DecoderConfig
from zsg_jax.report.diversity import figures
from zsg_jax.report.diversity.build import transitions
from zsg_jax.report.diversity.results import Group, rising
from zsg_jax.runtime.cli import packaged_configs
from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import diversity

SMALL = {
    "grid.rules": (4, 9, 20),
    "grid.no_ops": (0.0, 0.5),
    "grid.lengths": ("2/2/5",),
    "grid.families": ("free+repeat:2",),
    "grid.seed": (0, 1),
    "training.batch_size": 8,
    "training.steps": 4,
    "training.warmup_steps": 1,
    "training.checkpoint_every": 2,
    "evaluation.every": 2,
    "evaluation.rows": 20,
    "evaluation.rules": 10,
    "evaluation.no_ops": 0.25,
}


def make(**changes):
    config = diversity_config()
    config.update_from_flattened_dict(SMALL | changes)
    return config


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    def tiny(name, vocab_size, length):
        return DecoderConfig("llama", vocab_size, 16, 16, 1, 1, 1, 16, length)

    monkeypatch.setattr(sweep, "model_config", tiny)


@pytest.mark.ci
@pytest.mark.slow
def test_a_study_from_config_to_page(tmp_path, read_page, browse, capfd):
    workdir = tmp_path / "w"
    page = diversity.run(make(), workdir, command="python -m zsg_jax.main <here>")
    assert page == workdir / "report" / "index.html"
    read = read_page(page)
    read.check()
    assert read.text["code"] == "python -m zsg_jax.main <here>"
    results, transitions, kinds, facts = read.tables
    assert [len(results), len(transitions), len(kinds)] == [7, 3, 7]
    assert kinds[0][1:] == ["free", "repeat:2"]
    assert "By family and k" in read.said()
    assert ["Rows", "32 a cell, in 4 steps of 8"] in facts
    assert "Last command" not in dict(facts)
    said = read.said()
    assert "no-ops the transition hardly moves" in said
    with (page.parent / "curves.csv").open() as file:
        curves = list(csv.DictReader(file))
    assert len(curves) == 12 * 3
    for row in curves:
        assert float(row["unseen_exact"]) == pytest.approx(
            0.75 * float(row["unseen_exact_applied"]) + 0.25 * float(row["unseen_exact_no_op"]),
            abs=0.1,
        )
    assert "12 of 12 cells" in capfd.readouterr().err
    # A larger grid trains what is new alone; a finished one is only drawn again.
    diversity.run(make(**{"grid.rules": (4, 9, 20, 30)}), workdir, command="the larger one")
    assert "4 cells to train, 12 done" in capfd.readouterr().err
    assert ["Last command", "the larger one"] in read_page(page).tables[-1]
    before = page.read_bytes()
    diversity.run(make(**{"grid.rules": (4, 9, 20, 30)}), workdir, command="the larger one")
    assert page.read_bytes() == before
    assert capfd.readouterr().err == ""
    with pytest.raises(UserError, match=r"training\.steps is 4 there, 6 here"):
        diversity.run(make(**{"training.steps": 6}), workdir, command="")
    # Last: it is skipped where there is no browser.
    held, errors = browse(page)
    assert errors == []
    assert held.count("<svg") == len(read.drawn())


@pytest.mark.parametrize("many", [False, True])
def test_what_is_not_drawn_is_told(many):
    measures = ("unseen_exact", "seen_exact", "unseen_copied", "unseen_replaced")
    records = [{"step": step, **dict.fromkeys(measures, 0.5)} for step in (0, 5)]
    rules, count = range(2, 20 if many else 6), 7 if many else 2
    groups = [Group(f"g{i}", {}, {one: {0: records} for one in rules}) for i in range(count)]
    assert ("first 4 of 7" in figures.phases(groups).caption) == many
    assert ("Of 18 I 8 are shown" in figures.curves(groups[0]).caption) == many


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.batch_size": 0}, "config.training.batch_size=0 must be at least 1"),
        ({"training.loss": "answer"}, "choose one of all, answers"),
        ({"training.checkpoint_every": 3}, "must be a multiple of evaluation.every=2"),
        ({"training.b2": 1.5}, "training.b2=1.5 must be under 1"),
        ({"training.final_share": 3.0}, "must be at most 1"),
        ({"data.form": "compct"}, "did you mean compact"),
        ({"model.size": "smal"}, "did you mean small"),
        ({"grid.rules": ()}, "grid.rules is empty"),
        ({"grid.rules": (1.5,)}, "must be a tuple of whole numbers"),
        ({"grid.no_ops": (2.0,)}, "is a share"),
        ({"grid.families": ("fre",)}, "'fre' is no family"),
        ({"grid.samples": (3,), "grid.pool": (9,)}, "both say how many rows"),
        ({"grid.rules": (700,)}, "ask for fewer"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        diversity.run(make(**changes), tmp_path / "w", command="")
    assert not (tmp_path / "w" / "report").exists()


@pytest.mark.parametrize(("warmup", "told"), [(7, False), (8, True)])
def test_a_rate_that_never_falls_is_told(warmup, told, capsys):
    diversity.read(make(**{"training.steps": 8, "training.warmup_steps": warmup}))
    assert ("learning rate never falls" in capsys.readouterr().err) == told


def test_an_unknown_key_is_refused(tmp_path):
    config = make()
    config.training.unlock()
    config.training.stepps = 3
    with pytest.raises(UserError, match=r"did you mean training\.steps"):
        diversity.run(config, tmp_path, command="")
    with pytest.raises(UserError, match="key that nothing reads"):
        diversity.run(default_config(), tmp_path, command="")


def load_config(name, preset):
    spec = importlib.util.spec_from_file_location(name, packaged_configs()[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset)


def test_every_preset_is_a_grid():
    presets = ["", "quick", "noops", "families", "tail", "occurrences", "samples", "markov"]
    for preset in [*presets, "encrypted", "lengths", "paper"]:
        cells, settings = diversity.read(load_config("diversity", preset))
        assert len({cell.name for cell in cells}) == len(cells) > 1
        assert settings.recipe.steps


@pytest.mark.slow
def test_few_rules_are_memorized_and_many_generalize(tmp_path, monkeypatch, read_page):
    monkeypatch.undo()
    config = load_config("diversity", "quick")
    page = diversity.run(config, tmp_path / "w", command="")
    read_page(page).check()
    with (page.parent / "results.csv").open() as file:
        few, many = csv.DictReader(file)
    assert float(few["trained rules"]) > 0.6
    assert float(few["unseen rules"]) < 0.05
    assert float(many["unseen rules"]) > 0.5


def test_a_rise_of_which_rows_without_an_application_hide_the_foot_is_told():
    shares = {64: 0.0, 256: 0.02, 512: 0.4, 1024: 0.9, 4096: 0.97}

    def group(no_ops):
        def records(share):
            head = {"step": 0, "unseen_exact_applied": share, "seen_exact": 1.0}
            whole = {"unseen_exact": (1 - no_ops) * share + no_ops}
            return [head | whole | {"unseen_exact_no_op": 1.0 if no_ops else None}]

        return Group(f"{no_ops}", {}, {n: {0: records(one)} for n, one in shares.items()})

    with_some, without = group(0.4), group(0.0)
    assert rising([without]) == "unseen_exact"
    [hidden] = transitions([with_some]).rows
    [plain] = transitions([without]).rows
    assert hidden.cells == plain.cells != ["–"] * 4
    assert "of rows with an application" in figures.by_rules([with_some, without]).caption
    assert "application" not in figures.by_rules([without]).caption
