"""One page of several finished studies, which were measured on the same rows in the same way."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from zsg_jax.arrangement.arrangement import load_arrangement
from zsg_jax.config import default_config, flatten
from zsg_jax.evaluation import decoding
from zsg_jax.evaluation.metrics import TEXTS
from zsg_jax.evaluation.records import read
from zsg_jax.report.build import leakage, not_kept, protocol, test_sets
from zsg_jax.report.page import write_report
from zsg_jax.report.rows import taken
from zsg_jax.report.runs import put_together, read_runs
from zsg_jax.report.summary import Record
from zsg_jax.report.tables import Row, Table
from zsg_jax.runtime.buckets import fetched, is_address
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import need_json
from zsg_jax.runtime.settings import check_least, named_by
from zsg_jax.workdir import manifest
from zsg_jax.workdir.claims import (
    CATEGORIES,
    DIGESTS,
    MORE_DIGESTS,
    REWARD_DIGEST,
    TEXT_ENDS,
    check_output,
    digests,
)
from zsg_jax.workdir.growth import MAY_CHANGE, is_read
from zsg_jax.workdir.layout import CONFIG, DATA, SHOWN, arrangement_folder
from zsg_jax.workdir.lock import locked
from zsg_jax.workflows.compare_options import CompareOptions

# Facts of data.json that a loss of test rows follows from, besides the parameters.
_MEASURED_ON = {
    **{name: DIGESTS[name] for name in ("test_digest", "tokenizer_digest", "template_digest")},
    "test_ids": "the test rows that are scored",
}
# Likewise of a config: how test rows are put into tokens and cut.
_MEASURED_BY = (
    *("data.template_args", "data.empty_thoughts", "data.join_tokens", "data.answers"),
    *("data.max_answer", "data.truncation", "evaluation.max_length"),
)
_TEXTS_BY = "evaluation.texts."
_DECODING = "evaluation.texts.decoding"
# Folders and files, of which data.json tells the digest of what they hold.
_TOLD = {
    "evaluation.texts.rouge_tokenizer": "rouge_tokenizer_digest",
    "evaluation.texts.reward_model": REWARD_DIGEST,
    "evaluation.texts.reward_template": "reward_words_digest",
}
# Of a workdir, what a comparison does not read.
_UNREAD = ("embeddings", "tokens", "tokenizer", "pretraining", "report", "scratch")
_WRITTEN = ("index.html", "summary.json", "*.svg")


class _Study(NamedTuple):
    """A study: the name it has on the page, where it was given, and what its workdir says of it."""

    name: str
    given: str
    folder: Path
    config: dict[str, Any]
    data: dict[str, Any]


@named_by({"workdir": "WORKDIR"})
def run(options: CompareOptions) -> Path:
    """Writes a page that compares studies.

    Returns:
        The page, `output/index.html`, beside summary.json and the figures.

    Raises:
        UserError: a workdir holds no finished study of arrangements, the studies cannot be
            compared, or the output folder is another's.
    """
    check_least(options, window=1)
    _check_output(options)
    with ExitStack() as stack:
        names = _names(options.workdirs)
        pairs = zip(names, options.workdirs, strict=True)
        studies = [_open(name, given, stack) for name, given in pairs]
        # Each pair: two may share a metric that a third has not.
        for one, other in combinations(studies, 2):
            _check_comparable(one, other)
        runs: dict[str, Mapping[int, Sequence[Record]]] = {}
        scored: dict[str, Mapping[int, Sequence[Record]]] = {}
        told: list[dict[str, str]] = []
        for study in studies:
            methods, seeds = study.config["arrangement.methods"], study.config["seeds"]
            found = read_runs(study.folder, [(name, seed) for name in methods for seed in seeds])
            runs |= {f"{study.name}: {name}": one for name, one in found.records.items()}
            scored |= {f"{study.name}: {name}": one for name, one in found.scored.items()}
            told.append(put_together({name: [*by.values()] for name, by in found.facts.items()}))
        stack.enter_context(locked(options.output, "--output"))
        return write_report(
            options.output,
            runs,
            {},
            {study.name: study.given for study in studies},
            [*_notes(studies), *not_kept(runs)],
            title=f"{' and '.join(names)} compared",
            window=_window(options, studies),
            test_tasks=studies[0].data.get("test_id_tasks"),
            # Ids begin with the name of the set, so that no two studies have other ones.
            test_sets=next((sets for one in studies if (sets := test_sets(one.data))), {}),
            test_rows=read(studies[0].folder / SHOWN),
            scored=scored,
            settings=_settings(studies, told),
            protocol=protocol(studies[0].data),
        )


def _check_output(options: CompareOptions) -> None:
    output = options.output
    check_output(output, _WRITTEN, "comparison")
    for given in options.workdirs:
        check(
            is_address(given) or Path(given).resolve() not in output.resolve().parents,
            f"--output {output}: lies in the workdir {given}; give another folder",
        )


def _names(workdirs: Sequence[str]) -> list[str]:
    """The last folders of the paths, as many of each as tell the studies apart."""
    parts = [
        (given.rstrip("/") if is_address(given) else str(Path(given).resolve())).split("/")
        for given in workdirs
    ]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names) > 1:
            return names
    raise UserError(f"{' '.join(workdirs)}: give two workdirs or more, each of them once")


def _open(name: str, given: str, stack: ExitStack) -> _Study:
    folder = Path(given)
    if is_address(given):
        folder = stack.enter_context(fetched(given, _read))
    way_out = "give the workdir of a study that has finished"
    manifest.check_whole(folder)
    config = need_json(folder / CONFIG, (), way_out)
    check(
        "study" not in config,
        f"{given}: is a grid of cells, which its own page compares; give studies of arrangements",
    )
    data = need_json(folder / DATA, _MEASURED_ON, way_out)
    return _Study(name, given, folder, flatten(default_config()) | config, data)


def _read(names: Collection[str]) -> list[str]:
    """Of the files of a workdir, those that a comparison reads."""
    return [
        name
        for name in names
        if name.partition("/")[0] not in _UNREAD and "/checkpoints/" not in name
    ]


def _check_comparable(one: _Study, other: _Study) -> None:
    """Refuses studies of which a number of the same name was not measured in the same way."""
    both = f"{one.given} and {other.given} cannot be compared:"
    for name, what in _MEASURED_ON.items():
        check(
            one.data[name] == other.data[name], f"{both} {what} of one are not those of the other"
        )
    shared = set(one.config["evaluation.metrics"]) & set(other.config["evaluation.metrics"])
    keys = [*_MEASURED_BY]
    if shared & set(TEXTS):
        keys += [key for key in one.config if key.startswith(_TEXTS_BY) and is_read(key, shared)]
    for key in keys:
        if _TOLD.get(key) in one.data.keys() & other.data.keys():
            continue  # where it lies makes no difference
        if key == _DECODING and _decoded(one, key) == _decoded(other, key):
            continue
        check(
            one.config[key] == other.config[key],
            f"{both} {key} is {one.config[key]!r} in one and {other.config[key]!r} in the other, "
            "so their measures of one name are not the same measure",
        )
    for name, what in MORE_DIGESTS.items():
        # Studies of earlier versions may not tell.
        told = {study.data[name] for study in (one, other) if name in study.data}
        matters = name == CATEGORIES or name.partition("_")[0] in shared
        matters |= name == TEXT_ENDS and bool(shared & set(TEXTS))
        check(
            len(told) <= 1 or not matters,
            f"{both} {what} of one is not that of the other",
        )


def _decoded(study: _Study, key: str) -> decoding.Sampling:
    return decoding.parse(study.config[key])


def _settings(studies: Sequence[_Study], told: Sequence[Mapping[str, str]]) -> Table:
    """What differs of settings, inputs and of what runs told of themselves, a column a study."""
    rows = {
        key: [_told(study.config.get(key)) for study in studies]
        for key in dict.fromkeys(key for study in studies for key in study.config)
        if not key.startswith(MAY_CHANGE)
    }
    taken = [digests(study.data) | _compared_by(study) for study in studies]
    for what in dict.fromkeys(what for one in taken for what in one):
        rows[f"{what}, by digest"] = [one.get(what, "")[:8] or "none" for one in taken]
    for label in dict.fromkeys(label for one in told for label in one):
        rows[label] = [one.get(label, "not told") for one in told]
    differing = [Row(key, told) for key, told in rows.items() if len(set(told)) > 1]
    return Table("Setting", [study.name for study in studies], differing)


def _compared_by(study: _Study) -> dict[str, str]:
    """Digests of what examples were compared by, which a setting may name by a path."""
    folder = arrangement_folder(study.folder, study.config["arrangement.methods"][0])
    facts = load_arrangement(folder)[1]
    texts = json.dumps(facts.get("embedded"), sort_keys=True)
    return {
        "the encoder": str(facts.get("encoder_digest") or ""),
        "the texts that are embedded": hashlib.sha256(texts.encode()).hexdigest(),
    }


def _told(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _window(options: CompareOptions, studies: Sequence[_Study]) -> int | None:
    """The step of --window, or that of the studies where they have the same."""
    windows = {study.config["report.window"] for study in studies}
    if options.window is None and len(windows) == 1:
        return windows.pop()
    return options.window


def _notes(studies: Sequence[_Study]) -> list[str]:
    """What a reader of several studies must know besides what differs."""
    notes = []
    if len({study.config["training.batch_size"] for study in studies}) > 1:
        notes.append(
            "A step does not take as many training rows in all studies, so the same step is not "
            "the same amount of data."
        )
    if not set.intersection(*(set(study.config["seeds"]) for study in studies)):
        notes.append(
            "No seed is in all studies; only runs of the same seeds are tested for differences."
        )
    leaks = {study.name: leakage(study.folder) for study in studies}
    if len(set(leaks.values())) == 1:
        notes.append(leaks[studies[0].name])
    else:
        notes += [f"{name}: {sentence}" for name, sentence in leaks.items()]
    for study in studies:
        notes += taken(study.config["training.epochs"], f" of {study.name}")
    metrics = [set(study.config["evaluation.metrics"]) for study in studies]
    if missing := set.union(*metrics) - set.intersection(*metrics):
        notes.append(f"Not measured in every study: {', '.join(sorted(missing))}.")
    return notes
