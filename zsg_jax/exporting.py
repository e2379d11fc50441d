"""From a checkpoint of a study's run to a Hugging Face folder that any program can load."""

import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from zsg_jax import workdir as workdirs
from zsg_jax.data.pool import choose_tokenizer
from zsg_jax.data.tokenizers import BOS, EOS, ByteTokenizer, FileTokenizer
from zsg_jax.durable import file_digest, need_json, replacing, write_json
from zsg_jax.errors import UserError, check, nearest
from zsg_jax.models import huggingface
from zsg_jax.models.choose import choose, is_file
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.huggingface.write import DTYPES, SAME, write
from zsg_jax.models.parts import Params
from zsg_jax.progress import say
from zsg_jax.training.checkpoint import Checkpoints

# What a tokenizer's folder may hold, by one version or another of transformers.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
_MODEL_FILES = ("generation_config.json",)


class Request(NamedTuple):
    """What to export.

    Attributes:
        workdir: of a study.
        run: one of its runs, as NAME-seedK.
        output: a folder that does not exist yet.
        step: a step that a checkpoint is kept of; None: the last.
        dtype: of the weights, from `DTYPES`; "same": as in the folder that training started from,
            or as they were trained.
        file_gb: gigabytes at most of a file of weights.
    """

    workdir: Path
    run: str
    output: Path
    step: int | None = None
    dtype: str = SAME
    file_gb: float = 5.0


def run(request: Request) -> Path:
    """Exports what `request` says; the folder is there whole or not at all.

    Returns:
        The folder.

    Raises:
        UserError: it exists, there is no such run or checkpoint, a checkpoint is damaged, or the
            folders that training started from have changed or gone.
    """
    output = Path(request.output)
    check(
        not (output.exists() or output.is_symlink()),
        f"--output {output}: exists already; give a new folder",
    )
    check(
        request.dtype in (SAME, *DTYPES),
        f"--dtype {request.dtype}: choose one of {', '.join((SAME, *DTYPES))}",
    )
    gigabytes = request.file_gb
    check(0 < gigabytes < math.inf, f"--file-gb {gigabytes} must be a number above 0")
    workdir = Path(request.workdir)
    told = "give the --workdir of a study that has trained"
    config = need_json(workdir / workdirs.CONFIG, ("model.family", "tokenizer"), told)
    facts = need_json(workdir / workdirs.DATA, workdirs.DIGESTS, told)
    folder = _run_folder(workdir, request.run)
    tokenizer = choose_tokenizer(config["tokenizer"], workdir / workdirs.TOKENIZER)
    _check_same(config["tokenizer"], tokenizer.fingerprint, facts["tokenizer_digest"], "tokenizer")

    source = config["model.init_from"] or None
    model = choose(
        config["model.family"],
        config["model.size"],
        config["model.init_from"],
        vocab_size=tokenizer.vocab_size,
        max_positions=max(config["data.max_length"], config["evaluation.max_length"]),
    )
    if source:
        digest = huggingface.check_folder(source, model)
        _check_same(source, digest, facts["weights_digest"], "model.init_from")
    elif is_file(config["model.size"]):
        digest = file_digest(Path(config["model.size"]))
        _check_same(config["model.size"], digest, facts["weights_digest"], "model.size")
    step, params = Checkpoints(folder / "checkpoints").parameters(request.step)
    model = _padded_as(model, params)
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    with replacing(output) as partial:
        partial.mkdir()
        write(
            partial,
            model,
            params,
            source=source,
            dtype=request.dtype,
            file_bytes=int(request.file_gb * 1e9),
            more=ids,
        )
        _write_tokenizer(partial, config["tokenizer"], tokenizer)
        if source:
            _copy(Path(source), partial, _MODEL_FILES)
    say(f"{request.run}: step {step} is written to {output}")
    return output


def _run_folder(workdir: Path, name: str) -> Path:
    runs = workdir / "runs"
    known = sorted(path.name for path in runs.iterdir()) if runs.is_dir() else []
    check(
        name in known,
        f"--run {name}: {workdir} has {', '.join(known) or 'no runs'}{nearest(name, known)}",
    )
    return runs / name


def _check_same(given: str, found: str, digest: str, key: str) -> None:
    check(
        found == digest,
        f"{key}={given!r} has changed since the study was made; put back what it was made with",
    )


def _padded_as(model: ModelConfig, params: Params) -> ModelConfig:
    """`model` with the padding that the mesh asked for when the checkpoint was written."""
    rows = params["embed"]["embedding"].shape[0]
    if rows < model.vocab_size:
        raise UserError(
            f"the checkpoint holds {rows} words, config.json {model.vocab_size}; put back the"
            " model.init_from or model.size that the study was made with"
        )
    return replace(model, vocab_padding=rows - model.vocab_size)


def _write_tokenizer(folder: Path, name: str, tokenizer: Any) -> None:
    if name not in ("bytes", "train"):
        _copy(Path(name), folder, _TOKENIZER_FILES)
        return
    if isinstance(tokenizer, ByteTokenizer):
        tokenizer = byte_tokenizer()
    tokenizer.save(folder)
    path = folder / "tokenizer_config.json"
    # Without it transformers takes the class of the model's family, which splits texts its own way.
    write_json(path, json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"})


def byte_tokenizer() -> FileTokenizer:
    """`ByteTokenizer` as a `tokenizers` model, which can be written to a file; the same ids."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    # As GPT-2 spells bytes: what can be printed by itself, the others by letters from 256 on.
    printed = [b for b in range(256) if chr(b) in alphabet]
    others = [b for b in range(256) if b not in printed]
    spelled = {b: chr(b) for b in printed} | {b: chr(256 + i) for i, b in enumerate(others)}
    inner = tokenizers.Tokenizer(models.BPE(vocab={spelled[b]: b for b in spelled}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([BOS, EOS])
    return FileTokenizer(inner, 256, 257)


def _copy(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
