"""Which model a study trains: a named size, one like a config.json, or that of a folder."""

from zsg_jax.models import huggingface
from zsg_jax.models.families import FAMILIES, ModelConfig

# The family of random weights that name none.
DEFAULT = "llama"


def is_file(size: str) -> bool:
    """Whether `model.size` is a file like config.json and no name."""
    return size.endswith(".json")


def choose(
    family: str, size: str, init_from: str, *, vocab_size: int, max_positions: int
) -> ModelConfig:
    """The model that these settings mean.

    Args:
        family: one of `FAMILIES`; "" for that of the folder or file, or `DEFAULT`.
        size: a name from the family's SIZES, or a file like config.json for random weights in its
            shape; not read where `init_from` is given.
        init_from: a Hugging Face folder, or "".
        vocab_size, max_positions: those of a named size.

    Raises:
        UserError: a file is missing, is not computed here, or is of another family.
    """
    if init_from or is_file(size):
        return huggingface.read_config(init_from or size, family)
    return FAMILIES[family or DEFAULT].sized(size, vocab_size, max_positions)
