"""Compares ways to select training rows: a study for every space and budget, then one page.

Each study lies in studies/ of the workdir, as one that stands alone does, and is gone on with like
one. Studies share the weights pretrained in studies/start, and embeddings and tokens in cache/.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from zsg_jax.arrangement.arrangement import load_arrangement
from zsg_jax.arrangement.epochs import read_anew
from zsg_jax.arrangement.methods import parse
from zsg_jax.arrangement.spaces import fetched, open_encoder
from zsg_jax.arrangement.written import is_made
from zsg_jax.config import default_config, flatten, from_flat
from zsg_jax.config_selection import selection_config
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import need_json, read_json
from zsg_jax.runtime.progress import say
from zsg_jax.runtime.settings import setting
from zsg_jax.similarity.encoders.address import read_encoder
from zsg_jax.similarity.encoders.registry import ENCODERS
from zsg_jax.training.finished import finished
from zsg_jax.training.optimizer import schedule
from zsg_jax.workdir import claims, hub, layout
from zsg_jax.workflows import study
from zsg_jax.workflows.alone import claimed_alone
from zsg_jax.workflows.validate import check_keys, validate

RANDOM = "random"
# Stands for as many rows as the budget.
DIVERSE = "diverse-N"
_START = re.compile(r"(\w+):start(,.*)?")


class Selections(NamedTuple):
    """A study of the comparison: one space and budget, or the rules that need no space.

    Attributes:
        space: as grid.spaces has it; "" of rules that need none.
        budget: training rows.
        names: rule → seed → arrangement.
        folder: below the workdir.
    """

    space: str
    budget: int
    names: dict[str, dict[int, str]]
    folder: Path

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Arrangement and seed of each run."""
        return [(name, seed) for by_seed in self.names.values() for seed, name in by_seed.items()]

    def has_finished(self, workdir: Path) -> bool:
        """Whether all of its runs have taken their steps."""
        folder = workdir / self.folder
        return all(finished(layout.run_folder(folder, name, seed)) for name, seed in self.runs)


def run(config: ConfigDict, workdir: Path | str, *, command: str) -> Path:
    """Runs or resumes the comparison `config` in `workdir`.

    Args:
        config: as `config_selection.selection_config` documents it.
        workdir: a folder, made if missing; refused if it belongs to another config. Other values
            of `grid` are no other config.
        command: shown on the report page.

    Returns:
        The report page, `workdir/report/index.html`.

    Raises:
        UserError: for every mistake that a user can mend.
    """
    parts = read(config)
    with claimed_alone(config, workdir, command) as folder:
        told = _open_encoders([part for part in parts if not part.has_finished(folder)], folder)
        _check_spaces(folder, parts, told)
        start = _begin(config, folder, parts, command)
        for number, part in enumerate(parts, start=1):
            if not part.has_finished(folder):
                say(f"part {number} of {len(parts)}: {part.folder.name}")
            _complete(config, folder, start, part, command)
            _check_spaces(folder, [part], told)
        # Imported here: a mistake in the config is told before Matplotlib has been imported.
        from zsg_jax.report import selection as report

        cells = [
            report.Cell(part.space, rule, part.budget, folder / part.folder, by_seed)
            for part in parts
            for rule, by_seed in part.names.items()
        ]
        return report.build(folder, cells, title=config.report.title, command=command)


def read(config: ConfigDict) -> list[Selections]:
    """The studies of a config, checked; the largest budget comes first, since it may be too large.

    Raises:
        UserError: naming the key, its value and what would do.
    """
    start = selection_config()
    check_keys(flatten(config), flatten(start), start)
    _check_grid(config)
    grid = config.grid
    rules = [RANDOM, *grid.rules]
    parts = []
    for budget in sorted(grid.budgets, reverse=True):
        names = {rule: _arrangements(rule, budget, config) for rule in rules}
        free = {rule: one for rule, one in names.items() if not _embedded(rule, budget)}
        others = {rule: one for rule, one in names.items() if rule not in free}
        parts.append(Selections("", budget, free, _folder("", budget)))
        for space in grid.spaces if others else ():
            parts.append(Selections(space, budget, others, _folder(space, budget)))
    for part in parts:
        validate(study_config(config, part), runs=part.runs)
    return parts


def largest(config: ConfigDict) -> ConfigDict:
    """The study of the largest budget, which takes the most of a machine.

    Raises:
        UserError: as `read`.
    """
    return study_config(config, read(config)[0])


def study_config(config: ConfigDict, part: Selections, known: dict[str, Any] | None = None) -> Any:
    """The config of a study of the comparison.

    Args:
        known: flat, what the study had before: arrangements and seeds that are no longer asked for
            stay, but are not gone on with.
    """
    had = known or {}
    methods = [*had.get("arrangement.methods", ()), *(name for name, _ in part.runs)]
    seeds = [*had.get("seeds", ()), *config.grid.seeds]
    given = {
        key: value for key, value in flatten(config).items() if key in flatten(default_config())
    }
    return from_flat(
        given
        | {
            "seeds": list(dict.fromkeys(seeds)),
            "similarity.encoder": part.space or "hashing",
            "similarity.trajectory": ["nearest"],
            "arrangement.methods": list(dict.fromkeys(methods)),
            "arrangement.budget": part.budget,
            "training.steps": _steps(config, part.budget),
        }
    )


def _check_grid(config: ConfigDict) -> None:
    grid, training = config.grid, config.training
    for key, values in grid.items():
        check(
            key == "shuffle" or (bool(values) and len(set(values)) == len(values)),
            f"{setting(f'grid.{key}', tuple(values) if key != 'shuffle' else values)} must be "
            "different values, at least one",
        )
    check(
        0 < config.data.report_fraction < 1,
        f"{setting('data.report_fraction', config.data.report_fraction)}: targets that steered the "
        "selection cannot score it; give a share between 0 and 1",
    )
    check(
        all(0 <= seed < 2**32 for seed in grid.seeds),
        f"{setting('grid.seeds', tuple(grid.seeds))} must be whole numbers from 0",
    )
    check(
        not read_anew(training.epochs).steps,
        f"{setting('training.epochs', tuple(training.epochs))}: what is selected stays; leave it "
        "out",
    )
    check(training.batch_size >= 1, f"{setting('training.batch_size')} must be at least 1")
    for budget in grid.budgets:
        check(
            budget >= 2 and budget % training.batch_size == 0,
            f"{setting('grid.budgets')}: {budget} is no multiple of training.batch_size="
            f"{training.batch_size}, so the last step would have more rows of one rule than of "
            "another",
        )
    least = min(grid.budgets)
    for rule in grid.rules:
        _check_rule(rule, least, config)
    for space in grid.spaces:
        _check_space(space, config)
    steps = _steps(config, least)
    schedule(training.schedule, training.learning_rate, steps, training.warmup_steps)


def _steps(config: ConfigDict, budget: int) -> int:
    return len(config.training.epochs) * (budget // config.training.batch_size)


def _check_rule(rule: str, budget: int, config: ConfigDict) -> None:
    told = f"{setting('grid.rules')}: {rule!r}"
    check(rule != RANDOM, f"{told} is what all rules are compared with; leave it out")
    check("@" not in rule, f"{told}: the seed is that of the run, by grid.seeds; leave it out")
    try:
        method, _ = parse(_method(rule, budget), 0)
    except UserError as error:
        raise UserError(f"{setting('grid.rules')}: {error}") from None
    same = not config.grid.shuffle and not method.shuffles and len(config.grid.seeds) > 1
    check(
        not same or not config.model.init_from or config.model.lora.rank > 0,
        f"{setting('grid.shuffle', False)} would train {rule!r} {len(config.grid.seeds)} times "
        f"alike, since the weights come from {setting('model.init_from')}; give one seed, adapters "
        "or grid.shuffle=True",
    )


def _check_space(space: str, config: ConfigDict) -> None:
    told = f"{setting('grid.spaces')}: {space!r}"
    check(bool(space), f"{told} is empty; give a name as similarity.encoder takes it")
    read_encoder(space)
    model = config.model
    if _START.fullmatch(space):
        check(
            bool(model.init_from) or model.pretraining.steps > 0,
            f"{told} is the model before it is tuned, but its weights are random; give "
            "model.init_from or model.pretraining.steps",
        )
        return
    _, colon, rest = space.partition(":")
    path = re.sub(r"@[\d,]+$", "", rest.partition(",")[0] if colon else space)
    known = space in ENCODERS or hub.is_name(space) or hub.is_name(path)
    check(
        known or Path(path).exists() or Path(space).exists(),
        f"{told}: there is no {path!r}; give {', '.join(ENCODERS)}, the folder of an encoder, "
        "states:MODEL, gradients:RUN, or hub:OWNER/NAME",
    )


def _method(rule: str, budget: int) -> str:
    return rule.replace(DIVERSE, f"diverse-{budget}")


def _embedded(rule: str, budget: int) -> bool:
    return parse(_method(rule, budget), 0)[0].embedded


def _arrangements(rule: str, budget: int, config: ConfigDict) -> dict[int, str]:
    """Seed → the arrangement by a rule, as far as the budget goes."""
    name = _method(rule, budget)
    if rule != RANDOM:
        # To the row, and in an order by chance.
        name += f"+first-{budget}" + (f"+window-{budget}" if config.grid.shuffle else "")
    shuffles = parse(name, 0)[0].shuffles
    return {seed: f"{name}@{seed}" if shuffles else name for seed in config.grid.seeds}


def _folder(space: str, budget: int) -> Path:
    """Where a study lies, below the workdir; spaces that are written alike lie apart."""
    name = space or "no-space"
    if space not in ENCODERS and space:
        plain = re.sub(r"[^\w.=-]+", "-", space).strip("-")[-40:]
        name = f"{plain}-{hashlib.sha256(space.encode()).hexdigest()[:8]}"
    return Path(layout.STUDIES) / f"{name}-{budget}"


def _open_encoders(parts: Sequence[Selections], workdir: Path) -> dict[tuple[str, str], Any]:
    """Opens what rows are compared by, so that none is found wanting after others were trained.

    Returns:
        What is known of each space so far, as `_check_spaces` takes it: the digest of its encoder,
        but for models before they are tuned.
    """
    told: dict[tuple[str, str], Any] = {}
    for space in dict.fromkeys(part.space for part in parts):
        if space and not _START.fullmatch(space):
            hub.fetch(workdir, **fetched(space))
            told[space, "encoder_digest"] = open_encoder(space, workdir).fingerprint
    return told


def _begin(config: ConfigDict, workdir: Path, parts: Sequence[Selections], command: str) -> Path:
    """Reads the rows, checks what hangs on them, and pretrains; gives the workdir of that."""
    largest, start = parts[0], workdir / layout.STUDIES / "start"
    known = read_json(start / layout.CONFIG)
    plain = study_config(config, largest, known)
    plain.similarity.cache = _cache(config, workdir)
    # It takes no steps.
    plain.arrangement.budget = plain.training.steps = None

    def check_rows(rows: int) -> None:
        check(
            largest.budget <= rows,
            f"{setting('grid.budgets')}: {largest.budget:,} rows cannot be selected of {rows:,}; "
            "give less",
        )

    with study.completed(plain, start, command, study.Part([], check_rows=check_rows)):
        data = need_json(start / layout.DATA, ("train_rows", "train_dropped", "scored_rows"))
    check_rows(data["train_rows"] - len(data["train_dropped"]))
    seeds = tuple(config.grid.seeds)
    check(
        len(seeds) > 1 or data["scored_rows"] > 1,
        f"{setting('grid.seeds', seeds)}: by one seed and the only target that is scored no "
        "difference can be told from chance; give more seeds, or more targets",
    )
    return start


def _complete(
    config: ConfigDict, workdir: Path, start: Path, part: Selections, command: str
) -> None:
    folder = workdir / part.folder
    if made_of := read_json(folder / layout.DATA):
        # What an earlier version does not tell of a part is taken as it is.
        claims.check_data(start, need_json(start / layout.DATA) | made_of)
    plain = study_config(config, part, read_json(folder / layout.CONFIG))
    plain.similarity.cache = _cache(config, workdir)
    first = config.grid.seeds[0]
    computed = study.Part(
        part.runs,
        start,
        _encoder(part.space, config, start),
        {by_seed[first] for by_seed in part.names.values()} if part.space else (),
    )
    with study.completed(plain, folder, command, computed):
        pass


def _check_spaces(
    workdir: Path, parts: Sequence[Selections], told: dict[tuple[str, str], Any]
) -> None:
    """Each budget is a study of its own: a space must be the same for all, and as it is now.

    `told`: space and kind of fact → what is known of it, to which what these parts say is added.
    """
    for part in parts:
        for name, _ in part.runs if part.space else ():
            made = layout.arrangement_folder(workdir / part.folder, name)
            facts = load_arrangement(made)[1] if is_made(made) else {}
            for what in facts.keys() & {"encoder_digest", "embedded"}:
                check(
                    told.setdefault((part.space, what), facts[what]) == facts[what],
                    f"{workdir / part.folder}: was selected by another {part.space} than is there "
                    f"now or made the other budgets; put that back, give another "
                    f"{setting('workdir')}, or delete the folder with its runs",
                )


def _cache(config: ConfigDict, workdir: Path) -> str:
    return config.similarity.cache or str(workdir / "cache")


def _encoder(space: str, config: ConfigDict, start: Path) -> str:
    """What a space stands for where it is the model before it is tuned."""
    found = _START.fullmatch(space)
    if found is None:
        return ""
    # Of the seed that was the first when the comparison began, whatever was added since.
    seed = need_json(start / layout.CONFIG, ("seeds",))["seeds"][0]
    model = config.model.init_from or layout.pretraining_folder(start, seed)
    return f"{found[1]}:{model}{found[2] or ''}"
