"""A cell on its way: its rows, its records and what is kept of it, so that a kill loses little."""

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from zsg_jax.data.rewriting.drawing import Scoring
from zsg_jax.diversity.cells import Cell, CellData, Scored, chain
from zsg_jax.diversity.program import Recipe
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import read_json, write_bytes, write_json
from zsg_jax.runtime.shards import Shards
from zsg_jax.training import metrics

END = "end.json"
FORMAT = 2  # of what is kept
_STATE, _POSITION = "state", "position"
_FREE = ("keep_every", "stack")  # settings that change no record of a cell


@dataclass(frozen=True)
class Settings:
    """What all cells of a study share.

    Attributes:
        recipe, scoring: how cells are trained, and on what they are scored.
        model, form: names of `program.MODELS` and `forms.FORMS`.
        letters: of the alphabet.
        every: steps between two scorings; the last step is always scored.
        keep_every: steps between two times that the state is kept, a multiple of `every`.
        stack: cells that are computed at once on accelerators, at most.
    """

    recipe: Recipe = field(default_factory=Recipe)
    scoring: Scoring = field(default_factory=Scoring)
    model: str = "small"
    form: str = "compact"
    letters: int = 26
    every: int = 100
    keep_every: int = 300
    stack: int = 32

    def told(self) -> dict[str, Any]:
        """What of it decides the numbers of a cell, as JSON values."""
        chosen = {key: value for key, value in asdict(self).items() if key not in _FREE}
        return dict(json.loads(json.dumps(chosen)))


def folder_of(workdir: Path, cell: Cell) -> Path:
    """Where a cell is kept."""
    return workdir / "runs" / cell.name


def ended(folder: Path, settings: Settings | None = None) -> dict[str, Any] | None:
    """What a finished cell says of itself; None: it has not finished.

    Raises:
        UserError: its records are no longer those that it ended with, or it was trained with other
            `settings`.
    """
    facts = read_json(folder / END, ["cell"])
    if facts is None:
        return None
    name = Cell(**facts["cell"]).name
    check(
        name == folder.name,
        f"{folder}: holds what {name} has written; delete it to train this cell",
    )
    if settings is not None:
        _check_settings(folder, facts.get("settings"), settings)
    # Cells of earlier versions told neither settings nor a digest.
    told = facts.get("metrics_sha256")
    if told is not None and metrics.digest(folder / metrics.FILE) != told:
        raise UserError(
            f"{folder / metrics.FILE}: is not what the cell ended with; restore it, or delete "
            f"{folder} to train this cell again"
        )
    return facts


def _check_settings(folder: Path, trained: Mapping[str, Any] | None, settings: Settings) -> None:
    """Refuses a cell that was trained with other settings; None: it tells none."""
    check(
        trained in (None, settings.told()),
        f"{folder}: was trained with other settings than this study; delete it to train this cell",
    )


class _Position(NamedTuple):
    """Where a cell stood as its state was kept in a file, in which this lies too."""

    step: int
    rows_digest: str
    seconds: float
    records: list[dict[str, Any]]
    settings: dict[str, Any] | None = None  # of earlier versions


class CellRun:
    """The run of a cell, from what is kept of it.

    Attributes:
        cell, data: what is trained, and its rows.
        step: steps taken.
        records: of metrics.jsonl so far.
    """

    def __init__(self, cell: Cell, settings: Settings, workdir: Path) -> None:
        """Draws the rules and finds what is kept; what is damaged is named and stepped over.

        Raises:
            UserError: it was trained with other settings.
        """
        recipe = settings.recipe
        self.cell, self._settings = cell, settings
        self.folder = folder_of(workdir, cell)
        self.data = CellData(
            cell,
            settings.scoring,
            letters=settings.letters,
            form=settings.form,
            steps=recipe.steps,
            batch_size=recipe.batch_size,
        )
        self._shards = Shards(self.folder / _STATE, {"cell": asdict(cell), "format": FORMAT})
        there = [name for name in map(_slot, range(2)) if self._shards.find({"file": name})]
        kept = {name: _position(self.folder / _STATE / name) for name in there}
        for one in kept.values():
            _check_settings(self.folder, one.settings, settings)
        self._kept = max(there, key=lambda name: kept[name].step, default=None)
        at = kept[self._kept] if self._kept else _Position(0, "", 0.0, [])
        self.step, self._digest, self._seconds, self.records, _ = at
        self.begin(1, "")

    def leaves(self) -> list[np.ndarray] | None:
        """The arrays of the state at `step`; None: it begins anew."""
        if self._kept is None:
            return None
        arrays = load_file(self.folder / _STATE / self._kept)
        return [arrays[name] for name in sorted(arrays)]

    def begin(self, together: int, how: str) -> None:
        """Counts seconds from now on, as its share of those of so many cells computed together.

        Args:
            together: this cell among them.
            how: it is computed, in words, for the page.
        """
        self._since, self._together, self._how = time.perf_counter(), together, how

    def trained(self, losses: np.ndarray, tokens: np.ndarray) -> None:
        """Takes the losses (T,) and rows (T, B, L) of the next steps."""
        finite = np.isfinite(losses)
        if not finite.all():
            raise UserError(
                f"{self.cell.name}: the loss of step {self.step + int(np.argmin(finite)) + 1} is "
                "no number; lower learning_rate"
            )
        self.step += len(losses)
        self._digest = chain(self._digest, tokens)
        loss = float(losses.mean(dtype=np.float64))
        self.records.append(
            {"step": self.step, "kind": "train", "loss": loss, "rows_digest": self._digest}
        )

    def scored(self, unseen: tuple[Any, Any], seen: tuple[Any, Any]) -> None:
        """Takes what `Program.score` gives of the rows of either side, each token's."""
        record: dict[str, Any] = {"step": self.step, "kind": "test"}
        for name, side, result in (
            ("unseen", self.data.unseen, unseen),
            ("seen", self.data.seen, seen),
        ):
            record |= {f"{name}_{key}": value for key, value in score(side, *result).items()}
        self.records.append(record)

    def keep(self, leaves: Iterable[Any]) -> None:
        """Keeps the arrays of the state at `step`, with the records up to there."""
        self._count()
        arrays = {f"{i:03}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        place = self.step // self._settings.keep_every % 2
        told = self._settings.told()
        position = _Position(self.step, self._digest, self._seconds, self.records, told)
        with self._shards.writing({"file": _slot(place)}) as path:
            save_file(arrays, path, {_POSITION: json.dumps(position)})

    def finish(self) -> None:
        """Writes the records and that it has ended; the state is then of no more use."""
        self._count()
        lines = "".join(map(metrics.as_line, self.records))
        write_bytes(self.folder / metrics.FILE, lines.encode())
        facts = {
            "cell": asdict(self.cell),
            "settings": self._settings.told(),
            "steps": self.step,
            "metrics_sha256": metrics.digest(self.folder / metrics.FILE),
            "seconds": round(self._seconds, 3),
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
            "how": self._how,
        }
        write_json(self.folder / END, facts)
        shutil.rmtree(self.folder / _STATE, ignore_errors=True)

    def _count(self) -> None:
        now = time.perf_counter()
        self._seconds += (now - self._since) / self._together
        self._since = now


def score(side: Scored, losses: Any, right: Any) -> dict[str, Any]:
    """What a side's tokens say: shares of rows and letters, and the mean loss of an answer token.

    Args:
        side: the rows scored.
        losses, right: (M, L) of each token, as `Program.score` gives them.

    Returns:
        exact: share of rows whose whole answer is right; exact_applied and exact_no_op: of those to
        which a rule applies, and of the others; by_kind: by the kind of the rule; copied and
        replaced: of the letters of answers that come from z and from a y the share that is right,
        given those before; loss: nats. None where there are no such rows.
    """
    losses, right = np.asarray(losses, np.float64), np.asarray(right)
    answer, replaced = side.encoded.answer_mask, side.encoded.replaced_mask
    exact = (right | ~answer).all(axis=1)
    last = np.arange(answer.shape[1]) == side.encoded.lengths[:, None] - 1
    kinds = np.unique(side.kinds).tolist()
    return {
        "exact": _share(exact, np.ones(len(exact), bool)),
        "exact_applied": _share(exact, side.applied),
        "exact_no_op": _share(exact, ~side.applied),
        "copied": _share(right, answer & ~replaced & ~last),
        "replaced": _share(right, replaced),
        "by_kind": {kind: _share(exact, side.kinds == kind) for kind in kinds},
        "loss": float((losses * answer).sum() / answer.sum()),
    }


def _share(right: np.ndarray, among: np.ndarray) -> float | None:
    return float(right[among].mean()) if among.any() else None


def _position(path: Path) -> _Position:
    with safe_open(path, "numpy") as file:
        return _Position(*json.loads(file.metadata()[_POSITION]))


def _slot(place: int) -> str:
    return f"state-{place}.safetensors"
