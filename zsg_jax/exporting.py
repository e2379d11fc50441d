"""From a checkpoint of a study's run to a Hugging Face folder that any program can load."""

import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from zsg_jax import trained
from zsg_jax.data.pool import TRAINED
from zsg_jax.data.tokenizers import BOS, EOS, FILES, ByteTokenizer, FileTokenizer
from zsg_jax.durable import replacing, write_json
from zsg_jax.errors import check
from zsg_jax.models.huggingface.write import DTYPES, SAME, write
from zsg_jax.progress import say
from zsg_jax.training.start import padded_as

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
    study = trained.read_study(workdir, "give the --workdir of a study that has trained")
    run = trained.Run(workdir, request.run)
    step, params = trained.checkpoints(run, "--run").parameters(request.step)
    model = padded_as(study.model, params["embed"]["embedding"].shape[0])
    source, tokenizer = study.source, study.tokenizer
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
        _write_tokenizer(partial, study.tokenizer_name, tokenizer)
        if source:
            _copy(source, partial, _MODEL_FILES)
    say(f"{request.run}: step {step} is written to {output}")
    return output


def _write_tokenizer(folder: Path, name: str, tokenizer: Any) -> None:
    if name not in ("bytes", "train") and not (Path(name) / TRAINED).exists():
        _copy(Path(name), folder, FILES)
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
