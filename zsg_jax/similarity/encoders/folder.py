"""What the files of a sentence-transformers folder say of the way from a text to its embedding.

Everything that would change an embedding is either honoured as sentence-transformers 6 does, or
refused by one line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zsg_jax.models.huggingface.weights import read_json
from zsg_jax.runtime.errors import UserError, check

# By the names of the flags that stood for them before sentence-transformers 5.
POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS = ("Identity", "Tanh", "GELU", "ReLU", "SiLU", "Sigmoid")
_FAMILIES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_TRANSFORMER_FILES = tuple(f"sentence_{family}_config.json" for family in _FAMILIES)
_SETTINGS = "config_sentence_transformers.json"
_OTHER = "take another encoder"


@dataclass(frozen=True)
class Dense:
    """A dense layer after pooling.

    Attributes:
        folder: holds its weights.
        inputs, outputs: widths.
        bias: whether it has one.
        activation: one of `ACTIVATIONS`.
    """

    folder: Path = field(repr=False)
    inputs: int
    outputs: int
    bias: bool
    activation: str


@dataclass(frozen=True)
class Recipe:
    """How a folder's embeddings are made.

    Attributes:
        transformer: the folder of the model and its tokenizer.
        max_tokens: tokens of a text at most, special ones counted; None: what the tokenizer says.
        lower: whether texts are brought to lower case before all else.
        pooling: values of `POOLINGS`, whose results stand side by side.
        heads: what comes after, None for a division by the length.
        truncate: the first numbers of an embedding that are kept; None: all.
        prompts: texts to be put before a text, by their names.
        default_prompt: the name of the one that is put where none is asked for.
    """

    transformer: Path
    max_tokens: int | None = None
    lower: bool = False
    pooling: tuple[str, ...] = ("mean",)
    heads: tuple[Dense | None, ...] = ()
    truncate: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None


def read_recipe(folder: Path) -> Recipe:
    """Reads modules.json and what it points to.

    A folder without modules.json is a bare model: its last token where it was made to tell the
    next one, else the mean of all, over as many tokens as model and tokenizer take.

    Args:
        folder: in the layout of sentence-transformers, or a bare model in that of Hugging Face.

    Raises:
        UserError: naming what is missing, damaged or not computed here.
    """
    check(folder.is_dir(), f"{folder}: no such folder; give one that holds a sentence encoder")
    if (folder / "modules.json").exists():
        return _listed(folder)
    named = read_object(folder / "config.json").get("architectures") or [""]
    causal = str(named[0]).endswith("ForCausalLM")
    bare = Recipe(folder, pooling=("lasttoken" if causal else "mean",))
    tokenizer = folder / "tokenizer_config.json"
    chats = tokenizer.exists() and "chat_template" in read_object(tokenizer)
    check(
        not chats and not (folder / "chat_template.jinja").exists(),
        f"{folder}: no modules.json but a chat template, into which sentence-transformers puts "
        "every text, which is not done here; fetch modules.json too, or take the template away",
    )
    # What sentence-transformers does not read without modules.json, but the model was made with.
    poolings = sorted(folder.glob("*_Pooling/config.json"))
    said = _with_settings(_with_transformer(bare, folder), folder)
    if poolings:
        said = replace(said, pooling=_pooling(poolings[0]))
    check(
        said == bare,
        f"{folder}: no modules.json, without which its other files are not read, but they ask for "
        f"more than {bare.pooling[0]} pooling over all tokens; fetch modules.json too",
    )
    return bare


def _listed(folder: Path) -> Recipe:
    listing = folder / "modules.json"
    modules = read_json(listing)
    try:
        types = [str(module["type"]) for module in modules]
        paths = [folder / module["path"] for module in modules]
    except (TypeError, KeyError, AttributeError):
        raise UserError(
            f"{listing}: no list of modules, each with type and path; fetch the file again"
        ) from None
    kinds = [one.rpartition(".")[2] for one in types]
    ours = all(one.startswith("sentence_transformers.") for one in types)
    check(
        ours and kinds[:2] == ["Transformer", "Pooling"] and {*kinds[2:]} <= {"Dense", "Normalize"},
        f"{listing}: modules are {', '.join(types)}, but only sentence_transformers' Transformer, "
        f"Pooling, Dense, Normalize, in this order, are computed here; {_OTHER}",
    )
    heads: list[Dense | None] = []
    for kind, path in zip(kinds[2:], paths[2:], strict=True):
        if kind == "Dense":
            heads.append(_dense(path))
        else:
            _check_normalize(path)
            heads.append(None)
    # An embedding is brought to length one in any case, whatever was cut off it.
    while heads and heads[-1] is None:
        heads.pop()
    recipe = Recipe(paths[0], pooling=_pooling(paths[1] / "config.json"), heads=tuple(heads))
    return _with_settings(_with_transformer(recipe, paths[0]), folder)


def _with_settings(recipe: Recipe, folder: Path) -> Recipe:
    """`recipe` with what config_sentence_transformers.json adds."""
    path = folder / _SETTINGS
    values = read_object(path) if path.exists() else {}
    kind = values.get("model_type", "SentenceTransformer")
    check(kind == "SentenceTransformer", f"{path}: model_type is {kind!r}; {_OTHER}")
    cut, name = values.get("truncate_dim"), values.get("default_prompt_name")
    check(
        cut is None or (type(cut) is int and cut > 0),
        f"{path}: truncate_dim is {cut!r}; give a whole number from 1, or null",
    )
    prompts = values.get("prompts") or {}
    check(
        isinstance(prompts, dict)
        and all(isinstance(one, str | None) for one in (*prompts.values(), name)),
        f"{path}: prompts and default_prompt_name are no texts by name; fetch the file again",
    )
    prompts = {key: text or "" for key, text in prompts.items()}
    check(
        not name or name in prompts,
        f"{path}: default_prompt_name is {name!r}, which is none of its prompts; {_OTHER}",
    )
    return replace(recipe, truncate=cut, prompts=prompts, default_prompt=name or None)


def _with_transformer(recipe: Recipe, folder: Path) -> Recipe:
    """`recipe` with what sentence_bert_config.json, or a file of its kind, adds."""
    path = next((folder / n for n in _TRANSFORMER_FILES if (folder / n).exists()), None)
    if path is None:
        return recipe
    values = read_object(path)
    limits = [values.pop("max_seq_length", None), *_limits(path, values)]
    lower = values.pop("do_lower_case", False)
    check(type(lower) is bool, f"{path}: do_lower_case is {lower!r}; give true or false")
    # How inputs are handed on, and what other kinds of models have.
    fixed: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        "module_output_name": "token_embeddings",
        "query_length": None,
        "document_length": None,
        "query_expansion": None,
    }
    for key, value in fixed.items():
        found = values.pop(key, None)
        check(found in (None, value), f"{path}: {key} is {found!r}, not computed here; {_OTHER}")
    modality = values.pop("modality_config", None) or {}
    plain = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    check(
        modality in ({}, plain),
        f"{path}: modality_config is {modality!r}, but only plain text is embedded here; {_OTHER}",
    )
    values.pop("unpad_inputs", None)  # speed alone
    for key, value in values.items():
        check(not value, f"{path}: {key} is {value!r}, a key not known here; {_OTHER}")
    return replace(recipe, max_tokens=_limit(path, limits), lower=lower)


def _limits(path: Path, values: dict[str, Any]) -> list[Any]:
    """Limits of newer files, taken out of `values`, the one that wins last."""
    limits = []
    for key in ("tokenizer_args", "processor_kwargs"):
        given = values.get(key)
        if isinstance(given, dict):
            limits.append(given.pop("model_max_length", None))
    processing = values.get("processing_kwargs")
    if isinstance(processing, dict) and isinstance(processing.get("text"), dict):
        limits.append(processing["text"].pop("max_length", None))
        processing = {key: value for key, value in processing.items() if value}
        check(
            not processing,
            f"{path}: processing_kwargs has {processing!r}, but only text.max_length is honoured "
            f"here; {_OTHER}",
        )
        del values["processing_kwargs"]
    return limits


def _limit(path: Path, limits: list[Any]) -> int | None:
    for value in limits:
        check(
            value is None
            or (isinstance(value, int | float) and value >= 3 and type(value) is not bool),
            f"{path}: max_seq_length or max_length is {value!r}; give a whole number from 3",
        )
    given = [int(value) for value in limits if value is not None]
    return given[-1] if given else None


def _pooling(path: Path) -> tuple[str, ...]:
    values = read_object(path)
    flags = [mode for flag, mode in POOLINGS.items() if values.pop(flag, False)]
    modes = values.pop("pooling_mode", None) or flags or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    check(
        all(mode in POOLINGS.values() for mode in modes),
        f"{path}: pooling mode is {' and '.join(map(str, modes))}, but only "
        f"{', '.join(POOLINGS.values())} are computed here; {_OTHER}",
    )
    for key in ("word_embedding_dimension", "embedding_dimension"):
        values.pop(key, None)  # the model's width
    whole = values.pop("include_prompt", True)
    check(
        whole is True,
        f"{path}: include_prompt is {whole!r}, but a prompt's tokens are pooled here; {_OTHER}",
    )
    _refuse_others(path, values)
    return modes


def _dense(folder: Path) -> Dense:
    path = folder / "config.json"
    values = read_object(path)
    _on_embedding(path, values)
    inputs, outputs = values.pop("in_features", None), values.pop("out_features", None)
    check(
        type(inputs) is int and type(outputs) is int,
        f"{path}: in_features={inputs!r} and out_features={outputs!r} are no widths; fetch it "
        "again",
    )
    named = values.pop("activation_function", "torch.nn.modules.activation.Tanh")
    activation = str(named).rpartition(".")[2]
    check(
        str(named).startswith("torch.nn.") and activation in ACTIVATIONS,
        f"{path}: activation_function is {named!r}, but only {', '.join(ACTIVATIONS)} of torch.nn "
        f"are computed here; {_OTHER}",
    )
    bias = values.pop("bias", True)
    _refuse_others(path, values)
    return Dense(folder, inputs, outputs, bool(bias), activation)


def _check_normalize(folder: Path) -> None:
    path = folder / "config.json"
    if path.exists():
        values = read_object(path)
        _on_embedding(path, values)
        _refuse_others(path, values)


def _on_embedding(path: Path, values: dict[str, Any]) -> None:
    """Takes out what says that a module works on the pooled embedding."""
    for key in ("module_input_name", "module_output_name"):
        found = values.pop(key, None)
        check(
            found in (None, "sentence_embedding"),
            f"{path}: {key} is {found!r}, but only a pooled embedding goes on here; {_OTHER}",
        )


def _refuse_others(path: Path, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        check(not value, f"{path}: {key} is {value!r}, a key not known here; {_OTHER}")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; `UserError` when it is missing or holds something else."""
    values = read_json(path)
    check(isinstance(values, dict), f"{path}: holds no JSON object; fetch the file again")
    return values
