import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file, save_file

import zsg_jax
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders import sentence
from zsg_jax.similarity.encoders.sentence import SentenceEncoder

pytestmark = pytest.mark.references

WORDS = [f"w{i}" for i in range(40)]
ON_A_MESH = """
import sys, jax, numpy as np
from jax.sharding import AxisType
from zsg_jax.similarity.encoders.sentence import SentenceEncoder
texts = open(sys.argv[2]).read().split("\\n")
mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
alone, shared = (SentenceEncoder(sys.argv[1], mesh=m).encode(texts) for m in (None, mesh))
assert (alone == shared).all(), np.abs(alone - shared).max()
"""


def edit(path, **changes):
    """Changes keys of a JSON object in a file; None removes one."""
    values = json.loads(path.read_text()) if path.exists() else {}
    values = {k: v for k, v in (values | changes).items() if v is not None}
    path.write_text(json.dumps(values))


def write(folder, max_seq_length=32):
    """A random one-layer sentence encoder in the layout of sentence-transformers."""
    folder.mkdir(exist_ok=True)
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # What such files carry and what must not be obeyed.
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(folder / "tokenizer.json"))
    edit(folder / "config.json", model_type="bert", vocab_size=44, hidden_size=16)
    edit(folder / "config.json", intermediate_size=32, max_position_embeddings=64)
    edit(folder / "config.json", num_hidden_layers=1, num_attention_heads=2)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    edit(folder / "1_Pooling" / "config.json", pooling_mode_mean_tokens=True)
    edit(folder / "1_Pooling" / "config.json", pooling_mode_cls_token=False)
    edit(folder / "sentence_bert_config.json", max_seq_length=max_seq_length)
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    modules(folder, "Transformer", "Pooling", "Normalize")

    rng, shapes = np.random.default_rng(0), {}
    for name, size in (("word", 44), ("position", 64), ("token_type", 2)):
        shapes[f"embeddings.{name}_embeddings.weight"] = (size, 16)
    layer = "encoder.layer.0"
    for name, shape in {
        "attention.self.query": (16, 16),
        "attention.self.key": (16, 16),
        "attention.self.value": (16, 16),
        "attention.output.dense": (16, 16),
        "intermediate.dense": (32, 16),
        "output.dense": (16, 32),
        "attention.output.LayerNorm": (16,),
        "output.LayerNorm": (16,),
    }.items():
        shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
    shapes |= {"embeddings.LayerNorm.weight": (16,), "embeddings.LayerNorm.bias": (16,)}
    tensors = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def modules(folder, *kinds):
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    listing = [
        {"type": f"sentence_transformers.models.{kind}", "path": paths.get(kind, kind)}
        for kind in kinds
    ]
    (folder / "modules.json").write_text(json.dumps(listing))


def edit_modules(folder, old, new):
    listing = folder / "modules.json"
    listing.write_text(listing.read_text().replace(old, new))


def dense(folder, **changes):
    (folder / "Dense").mkdir()
    modules(folder, "Transformer", "Pooling", "Dense")
    edit(folder / "Dense" / "config.json", **{"in_features": 16, "out_features": 4} | changes)


def random_texts(count, longest, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(0, longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "tiny-encoder")


@pytest.fixture(scope="module")
def encoder(folder):
    return SentenceEncoder(folder)


def test_rows_are_unit_float32_in_the_order_given(encoder):
    assert (encoder.name, encoder.dimension, encoder.max_tokens) == ("tiny-encoder", 16, 32)
    texts = random_texts(70, 40)
    rows = encoder.encode(texts)
    assert (rows.shape, rows.dtype) == ((70, 16), np.float32)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    for i in (0, 33, 69):
        assert (encoder.encode([texts[i]]) == rows[i]).all()
    assert len({row.tobytes() for row in rows}) == len(set(texts))
    assert encoder.encode([]).shape == (0, 16)


def test_a_row_is_the_same_bits_whatever_other_rows_are_present(encoder):
    texts = random_texts(300, 40, seed=1)
    rows, rng = encoder.encode(texts), np.random.default_rng(0)
    for _ in range(5):
        chosen = rng.permutation(300)[: rng.integers(1, 300)]
        assert (encoder.encode([texts[i] for i in chosen]) == rows[chosen]).all()


def test_one_compile_for_one_width(folder):
    encoder = SentenceEncoder(folder)
    for seed in range(3):
        encoder.encode(random_texts(100, 40, seed))
    assert encoder._buckets.compiled._cache_size() == len(encoder._buckets.widths) == 2


def test_long_texts_are_cut_at_the_limit_and_the_files_own_limits_are_not_obeyed(encoder):
    words = WORDS * 2
    full, longer = encoder.encode([" ".join(words[:30]), " ".join(words)])
    assert (full == longer).all()
    assert (encoder.encode([" ".join(words[:29])])[0] != full).any()


def test_empty_texts_and_case_are_the_tokenizers_matter(encoder):
    empty, blank, upper, lower = encoder.encode(["", " \n", "W1 W2", "w1 w2"])
    assert np.isfinite(empty).all()
    assert (empty == blank).all()
    assert (upper == lower).all()


def test_progress_counts_every_row_once(encoder):
    seen = []
    encoder.encode(random_texts(150, 40), on_progress=seen.append)
    assert sum(seen) == 150
    assert len(seen) > 1


def test_a_mesh_gives_the_same_bits(folder, tmp_path):
    (tmp_path / "texts").write_text("\n".join(random_texts(150, 40)))
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", ON_A_MESH, str(folder), str(tmp_path / "texts")],
        env=os.environ | flags | {"PYTHONPATH": str(Path(zsg_jax.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_the_fingerprint_follows_what_decides_an_embedding_and_nothing_else(tmp_path, monkeypatch):
    folder = write(tmp_path / "model")
    first = SentenceEncoder(folder).fingerprint
    seen = [first]
    edit(folder / "tokenizer.json", truncation=None, padding=None)
    edit(folder / "config.json", transformers_version="9")
    assert SentenceEncoder(folder).fingerprint == first

    edit(folder / "sentence_bert_config.json", max_seq_length=31)
    seen.append(SentenceEncoder(folder).fingerprint)
    edit(folder / "tokenizer.json", normalizer=None)
    seen.append(SentenceEncoder(folder).fingerprint)
    edit(folder / "config.json", layer_norm_eps=1e-3)
    seen.append(SentenceEncoder(folder).fingerprint)
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.0.output.dense.bias"][3] += 1e-3
    save_file(tensors, folder / "model.safetensors")
    seen.append(SentenceEncoder(folder).fingerprint)
    monkeypatch.setattr(sentence, "_VERSION", 0)
    seen.append(SentenceEncoder(folder).fingerprint)
    assert len(set(seen)) == len(seen)


def test_layouts_of_other_versions_give_the_same(folder, encoder, tmp_path):
    texts = random_texts(20, 40)
    newer = write(tmp_path / "newer")
    flags = {"pooling_mode_mean_tokens": None, "pooling_mode_cls_token": None}
    edit(newer / "1_Pooling" / "config.json", pooling_mode="mean", **flags)
    edit(newer / "sentence_bert_config.json", max_seq_length=None)
    edit(newer / "tokenizer_config.json", model_max_length=32)
    modules(newer, "Transformer", "Pooling")
    assert (SentenceEncoder(newer).encode(texts) == encoder.encode(texts)).all()
    # Case folded by the library and not by the tokenizer.
    edit(newer / "tokenizer.json", normalizer=None)
    edit(newer / "sentence_bert_config.json", do_lower_case=True)
    folded = SentenceEncoder(newer)
    assert (folded.encode([text.upper() for text in texts]) == encoder.encode(texts)).all()


def break_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"model": {"type": "None"}}')


def add_token(folder):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    edit(folder / "tokenizer.json", model=model | {"vocab": model["vocab"] | {"extra": 44}})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: modules(f, "Transformer", "Pooling", "LSTM"), r"modules\.json: .*LSTM, but"),
        (lambda f: modules(f, "CLIPModel"), r"modules are .*CLIPModel, but only sentence_trans"),
        (
            lambda f: edit_modules(f, "sentence_transformers.models.", "custom_st."),
            "modules are custom_st.Transformer",
        ),
        (lambda f: (f / "modules.json").write_text("{}"), r"modules are , but only"),
        (lambda f: (f / "modules.json").write_text("[1]"), r"modules\.json: no list of modules"),
        (
            lambda f: edit(f / "1_Pooling" / "config.json", pooling_mode="median"),
            r"1_Pooling/config\.json: pooling mode is median, but only cls",
        ),
        (
            lambda f: edit(f / "1_Pooling" / "config.json", include_prompt=False),
            "include_prompt is False",
        ),
        (lambda f: edit(f / "1_Pooling" / "config.json", window=3), "window is 3, a key not"),
        (
            lambda f: edit(f / "config_sentence_transformers.json", default_prompt_name="query"),
            "default_prompt_name is 'query', which is none of its prompts",
        ),
        (lambda f: edit(f / "config_sentence_transformers.json", truncate_dim=0), "truncate_dim"),
        (
            lambda f: edit(f / "config_sentence_transformers.json", model_type="SparseEncoder"),
            "model_type is 'SparseEncoder'",
        ),
        (lambda f: write(f, max_seq_length="many"), "max_seq_length or max_length is 'many'"),
        (
            lambda f: edit(
                f / "sentence_bert_config.json", processing_kwargs={"text": {"padding": False}}
            ),
            "processing_kwargs has .*'padding'",
        ),
        (
            lambda f: edit(f / "sentence_bert_config.json", modality_config={"message": {}}),
            "only plain text is embedded",
        ),
        (
            lambda f: edit(f / "sentence_bert_config.json", model_args={"dtype": "float16"}),
            "model_args is .*float16",
        ),
        (
            lambda f: edit(f / "sentence_bert_config.json", query_length=8),
            "query_length is 8, not computed here",
        ),
        (lambda f: edit(f / "tokenizer_config.json", truncation_side="both"), "truncation_side"),
        (
            lambda f: edit(f / "tokenizer_config.json", split_special_tokens=True),
            "split_special_tokens is on",
        ),
        (lambda f: dense(f, use_residual=True), "use_residual is True, a key not known here"),
        (lambda f: dense(f, activation_function="torch.nn.ELU"), "activation_function is .*ELU"),
        (lambda f: dense(f, module_input_name="token_embeddings"), "only a pooled embedding"),
        (lambda f: dense(f, in_features=17), "in_features is 17, but 16 numbers come before"),
        (
            lambda f: edit(f / "tokenizer_config.json", tokenizer_class="BertTokenizer"),
            "Lowercase, Whitespace and WordLevel, but transformers' BertTokenizer has",
        ),
        (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json: no such file"),
        (break_tokenizer, r"tokenizer\.json: no tokenizer"),
        (lambda f: edit(f / "config.json", hidden_act="relu"), "hidden_act is 'relu'"),
        (add_token, r"tokenizer\.json: token number 44 is beyond vocab_size=44"),
    ],
)
def test_what_is_not_computed_here_is_refused_by_name(tmp_path, damage, message):
    damage(write(tmp_path / "model"))
    with pytest.raises(UserError, match=message) as caught:
        SentenceEncoder(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        SentenceEncoder(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def assets():
    root = Path(os.environ.get("ZSG_JAX_ASSETS", "/nonexistent"))
    if not (root / "models" / "all-MiniLM-L6-v2").is_dir() or not (root / "data" / "p3").is_dir():
        pytest.skip("needs ZSG_JAX_ASSETS, a folder that has models/all-MiniLM-L6-v2 and data/p3")
    return root


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_real_texts_equal_sentence_transformers_and_are_the_same_bits_in_any_company(assets, every):
    library = pytest.importorskip("sentence_transformers")
    folder = assets / "models" / "all-MiniLM-L6-v2"
    with gzip.open(assets / "data" / "p3" / "train.jsonl.gz", "rt") as lines:
        rows = [json.loads(line)["messages"] for line in lines]
    by_length = sorted((" ".join(message["content"] for message in row) for row in rows), key=len)
    # Few widths, few compilations: the shortest and the longest.
    chosen = by_length[:: len(rows) // 500] if every else by_length[:30]
    texts = [*chosen, *by_length[-5:], "", "a", "Hello", "naïve", "日本語", "🙂", "x" * 30]
    ours = SentenceEncoder(folder)
    theirs = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    expected = theirs.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    found = ours.encode(texts)
    assert ours.max_tokens == theirs.max_seq_length
    assert np.sum(found.astype(np.float64) * expected, axis=1).min() >= 0.99999
    some = np.random.default_rng(0).permutation(len(texts))[: len(texts) // 3]
    assert (ours.encode([texts[i] for i in some]) == found[some]).all()
