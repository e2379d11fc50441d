"""The parameters that training starts from: a Hugging Face folder's or a checkpoint's of ours."""

from dataclasses import replace
from pathlib import Path

from flax import traverse_util

from zsg_jax.models import huggingface
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.model import abstract
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.settings import setting
from zsg_jax.training import checkpoint


def load(weights: str | Path, model: ModelConfig, abstract: Params) -> Params:
    """The parameters, every device getting its own part alone.

    Args:
        weights: a Hugging Face folder, or the folder of one checkpoint.
        model: their shape, with the padding that the mesh needs.
        abstract: nested dict of `jax.ShapeDtypeStruct` with shardings, as `model` has them.

    Raises:
        UserError: something is missing, damaged, or of another shape.
    """
    if not checkpoint.is_one(weights):
        return huggingface.load(weights, model, abstract)
    folder = Path(weights)
    checkpoint.check_whole(folder)
    check_shapes(folder, model)
    # It may hold more or fewer rows of padding than this mesh needs; all of them are zeros.
    return checkpoint.load_parameters(folder, abstract)


def digest(weights: str | Path, model: ModelConfig) -> str:
    """SHA-256 over what `load` would read, having looked at its names and shapes.

    Raises:
        UserError: as `load`, but before any work is done.
    """
    if not checkpoint.is_one(weights):
        return huggingface.check_folder(weights, model)
    check_shapes(Path(weights), model)
    return checkpoint.digest(Path(weights))


def check_shapes(folder: Path, model: ModelConfig) -> None:
    """Refuses a checkpoint whose arrays are not those of `model`, padding aside."""
    found = _shapes(checkpoint.parameter_shapes(folder))
    check(
        "embed.embedding" in found,
        f"{folder}: holds adapters alone; export the run and give that folder",
    )
    wanted = _shapes(abstract(padded_as(model, found["embed.embedding"][0]))[1])
    different = sorted(path for path in found | wanted if found.get(path) != wanted.get(path))
    if different:
        path = different[0]
        raise UserError(
            f"{folder}: {path} has shape {found.get(path)}, the model {wanted.get(path)}; "
            "start from a checkpoint of this version of zsg_jax and this model"
        )


def padded_as(model: ModelConfig, rows: int) -> ModelConfig:
    """`model` with the padding that the mesh asked for when its `rows` of a table were written."""
    check(
        rows >= model.vocab_size,
        f"the checkpoint holds {rows} words, config.json {model.vocab_size}; put back the"
        f" {setting('model.init_from')} or {setting('model.size')} that the study was made with",
    )
    return replace(model, vocab_padding=rows - model.vocab_size)


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    flat = traverse_util.flatten_dict(params, sep=".")
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}
