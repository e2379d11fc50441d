"""Whatever stands in a file of other people's, it is read, or refused by a line that names it."""

import copy
import json

import numpy as np
import pytest

from zsg_jax.data.tokenize.tokenizer import from_folder, train_bpe
from zsg_jax.models import huggingface
from zsg_jax.runtime.errors import UserError

ODD = [
    None, True, -1, 0, 2**63, 10**400, 1e999, 1.5, "", "\ud800", "²", "x" * 5000, [], {}, [None],
    {"content": 3}, {"": {}}, [[[[]]]], [{"content": "a"}], ["a", 1],
]  # fmt: skip


def places(value, at=()):
    """The path of every value inside a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inside:
        yield (*at, key)
        if isinstance(one, dict | list):
            yield from places(one, (*at, key))


def mutated(content, rng):
    """The bytes of a file with something wrong in it."""
    kind = rng.integers(10)
    raw = bytearray(json.dumps(content).encode())
    if kind == 0:  # bits
        for _ in range(rng.integers(1, 4)):
            raw[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
        return bytes(raw)
    if kind == 1:  # an end, or too much
        cut = int(rng.integers(len(raw)))
        return bytes(raw[:cut] if rng.integers(2) else raw + raw[cut:])
    if kind == 2:
        depth = int(rng.integers(100, 200_000))
        return b"[" * depth + b"]" * depth
    made = copy.deepcopy(content)
    for _ in range(rng.integers(1, 4)):
        path = (found := list(places(made)))[rng.integers(len(found))] if made else ()
        if not path:
            break
        owner = made
        for key in path[:-1]:
            owner = owner[key]
        if kind == 3:
            del owner[path[-1]]
        else:
            owner[path[-1]] = copy.deepcopy(ODD[rng.integers(len(ODD))])
    return json.dumps(made).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_llama):
    folder = write_llama(tmp_path_factory.mktemp("folder"))
    train_bpe(["some words to learn from, some words"], 280).save(folder)
    shards = {"metadata": {"total_size": 1}, "weight_map": {"a": "model.safetensors"}}
    (folder / "index.json").write_text(json.dumps(shards))
    names = {"eos_token": "<|eos|>", "bos_token": {"content": "<|bos|>"}}
    names["added_tokens_decoder"] = {"1": {"content": "<|eos|>", "special": True}}
    names |= {"additional_special_tokens": ["<|x|>"], "extra_special_tokens": {"a": "<|y|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


def tokens(folder):
    tokenizer = from_folder(folder)
    tokenizer.encode(["some words", "<|eos|> é"])
    tokenizer.encode_rendered(["<|eos|>some"], [[]])


def index(folder):
    model = huggingface.read_config(folder)
    weights = folder / "model.safetensors"
    weights.rename(folder / "kept")
    try:
        huggingface.open_weights(folder, model)
    finally:
        (folder / "kept").rename(weights)


KINDS = {
    "config.json": huggingface.read_config,
    "tokenizer.json": tokens,
    "tokenizer_config.json": tokens,
    "model.safetensors.index.json": index,
    "added_tokens.json": tokens,
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_mutated_file_is_read_or_refused(folder, name, count, capfd):
    rng = np.random.default_rng(0)
    path = folder / name
    whole = path.read_bytes() if path.exists() else None
    content = json.loads(whole or (folder / "index.json").read_bytes())
    if name == "added_tokens.json":
        content = {"<|x|>": 280, "<|z|>": 281}
    if name == "tokenizer.json":  # a few pieces do, or most mutations would change one of them
        content["model"]["vocab"] = dict(list(content["model"]["vocab"].items())[:270])
        content["model"]["merges"] = content["model"]["merges"][:3]
    refused = 0
    try:
        for number in range(count):
            path.write_bytes(mutated(content, rng))
            try:
                KINDS[name](folder)
            except UserError as error:
                refused += 1
                told = str(error)
                told.encode(errors="backslashreplace")
                if "\n" in told or (str(folder) not in told and "tokenizer: " not in told):
                    pytest.fail(f"{number}: {told!r}")
            except BaseException as error:
                pytest.fail(f"{number}: {type(error).__name__}: {error}: {path.read_bytes()[:300]}")
    finally:
        path.write_bytes(whole) if whole else path.unlink()
    assert count // 10 < refused
    assert "panicked" not in capfd.readouterr().err
