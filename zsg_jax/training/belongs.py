"""What a run belongs to: the settings and the inputs that its records and checkpoints follow from.

It is told beside a run before anything is made of it, in each of its checkpoints and in what it
ends with, and compared wherever a run is gone on with, measured or reported. Runs of earlier
versions tell less, or nothing.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import read_json, write_json

FILE = "belongs.json"
_START = "to train this run from the start"


def _same(key: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    return bool(known[key] == given[key])


class Belongs(NamedTuple):
    """What the runs of a study belong to by now.

    Attributes:
        config: flat, what they are trained and measured by.
        inputs: what they are trained and measured on, by digests.
        agree: (key, told, config) → whether what a run told of a key, when it had the first config,
            holds for the second, as that of a study that has grown.
    """

    config: Mapping[str, Any] = {}
    inputs: Mapping[str, str] = {}
    agree: Callable[[str, Mapping[str, Any], Mapping[str, Any]], bool] = _same

    def told(self) -> dict[str, Any]:
        """What is told of it, as JSON values."""
        return {"config": dict(self.config), "inputs": dict(self.inputs)}

    def begin(self, folder: Path) -> None:
        """Tells it beside a run that was checked and is about to be made, or gone on with."""
        content = {"run": folder.name, **self.told()}
        if read_json(folder / FILE) != content:
            write_json(folder / FILE, content)

    def check_begun(self, folder: Path) -> None:
        """`check` of what is told beside the run in `folder`, if anything is."""
        self.check(folder, read_json(folder / FILE, ("run", "config", "inputs")) or {})

    def check(self, folder: Path, told: Mapping[str, Any]) -> None:
        """Refuses a run of another folder, of other settings or of other inputs.

        Args:
            folder: of the run.
            told: what was told of it, "run", "config" and "inputs", as far as its version did.

        Raises:
            UserError: naming what differs.
        """
        check(
            (run := told.get("run", folder.name)) == folder.name,
            f"{folder}: holds what {run} has written; put back what was there, or delete it "
            f"{_START}",
        )
        known, inputs = told.get("config", {}), told.get("inputs", {})
        for key in sorted(known.keys() & self.config.keys()):
            made, way_out = "trained", ""
            if key.startswith("evaluation."):
                made, way_out = "measured", "give the study the same, or "
            check(
                self.agree(key, known, self.config),
                f"{folder}: was {made} with {key}={known[key]!r}, the study has "
                f"{self.config[key]!r}; {way_out}delete it to train this run anew",
            )
        other = [key for key in inputs if self.inputs.get(key, inputs[key]) != inputs[key]]
        check(
            not other,
            f"{folder}: was trained on other inputs, by its {', '.join(other)}; put back what was "
            f"there, or delete it {_START}",
        )
