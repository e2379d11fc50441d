"""The contract of every evaluation: parameters in, fields of a record out; in a run, or alone.

A new evaluator is a file of this folder, and an entry of `workflows.evaluators`.
"""

from pathlib import Path
from typing import Any, Protocol

from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.settings import setting
from zsg_jax.training.checkpoint import load_parameters
from zsg_jax.training.trainer import Trainer


class Evaluator(Protocol):
    """Measures parameters; made once from plain arguments, what it needs lies on the devices.

    A run holds a list of (evaluator, every) and writes the fields of all that are due at a step
    into one test record. The fields follow from the parameters alone: another mesh or batch size
    gives the same, but for rounding.
    """

    def __call__(self, params: Params, step: int, folder: Path | None = None) -> dict[str, Any]:
        """Evaluates parameters.

        Args:
            params: all of them, as `Trainer.model_params` gives them.
            step: the optimizer steps they have taken, for messages and records.
            folder: where records of examples are kept (`records.measured`); None: nowhere.

        Returns:
            Fields that JSON can hold, under names that no other evaluator uses.

        Raises:
            UserError: a measure is not finite.
        """


def not_finite(told: str, step: int) -> UserError:
    """What to do about a measure of parameters after `step` that is no finite number, as `told`."""
    lower = f", or lower {setting('training.learning_rate')}" if step else ""
    return UserError(f"{told}; look at the weights the run starts from{lower}")


def checkpoint_params(trainer: Trainer, checkpoint: Path, seed: int) -> Params:
    """The parameters of a run's checkpoint, on the mesh of `trainer`, which may be another.

    Args:
        checkpoint: its folder, as `Checkpoints.whole` gives it.
        seed: the run's, from which weights that no checkpoint keeps follow.
    """
    trained = load_parameters(checkpoint, trainer.abstract_state["params"])
    return trainer.model_params({"params": trained, **trainer.frozen(seed)})
