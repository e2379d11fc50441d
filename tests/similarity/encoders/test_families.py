"""Every family of encoders against sentence-transformers, on small random weights.

Each folder uses what its family has: the offset of positions, buckets of distances, windows that
are shorter than the texts, grouped queries.
"""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from zsg_jax.models.encoder import buckets
from zsg_jax.models.huggingface import read_encoder_config
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.sentence import SentenceEncoder

pytestmark = pytest.mark.references

library = pytest.importorskip("sentence_transformers")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
BERT_LIKE = {**SMALL, "intermediate_size": 24}
DISTIL = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 64}
# Keys that Google's own files have, as those of LaBSE.
GOOGLE = {"directionality": "bidi", "pooler_type": "first_token_transform", "pooler_fc_size": 768}


def texts():
    """Of P3 where it is there, else made up: 200, of which some are longer than any limit here."""
    path = Path(os.environ.get("ZSG_JAX_ASSETS", "/nonexistent")) / "data" / "p3" / "train.jsonl.gz"
    if not path.exists():
        rng = np.random.default_rng(0)
        words = ["the", "cat,", "a", "mat?", "Where", "IS", "it", "(really)", "naïve", "日本"]
        return [" ".join(rng.choice(words, rng.integers(1, 60))) for _ in range(200)]
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line)["messages"] for line, _ in zip(lines, range(200), strict=False)]
    return [" ".join(turn["content"] for turn in row)[:400] for row in rows]


def pieces():
    letters = [chr(i) for i in range(33, 127)]
    return [*letters, "the", "##e", "and", *("##" + one for one in letters)]


def word_piece(make, first):
    vocabulary = dict.fromkeys([*first, *pieces()])
    return make(vocab={piece: i for i, piece in enumerate(vocabulary)})


def bert():
    tokenizer = word_piece(
        transformers.BertTokenizer, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    )
    sizes = {**BERT_LIKE, "max_position_embeddings": 64, "type_vocab_size": 3}
    config = transformers.BertConfig(vocab_size=len(tokenizer), **sizes, **GOOGLE)
    return transformers.BertModel(config), tokenizer, "cls"


def distilbert():
    tokenizer = word_piece(
        transformers.DistilBertTokenizer, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    )
    config = transformers.DistilBertConfig(vocab_size=len(tokenizer), **DISTIL)
    return transformers.DistilBertModel(config), tokenizer, "mean"


def mpnet():
    first = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"]
    tokenizer = word_piece(transformers.MPNetTokenizer, first)
    # Long enough for buckets of far distances.
    config = transformers.MPNetConfig(
        vocab_size=len(tokenizer), **BERT_LIKE, max_position_embeddings=162
    )
    return transformers.MPNetModel(config), tokenizer, "mean"


def roberta():
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, "th", "the", "Ġthe"]
    tokenizer = transformers.RobertaTokenizer(
        vocab={piece: i for i, piece in enumerate(vocabulary)},
        merges=[("t", "h"), ("th", "e"), ("Ġ", "the")],
    )
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer), **BERT_LIKE, max_position_embeddings=66, type_vocab_size=1
    )
    return transformers.RobertaModel(config), tokenizer, "mean"


def xlm_roberta():
    scored = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    scored += [(chr(i), -4.0 - i / 100) for i in range(33, 127)] + [("▁the", -3.0), ("▁a", -3.5)]
    tokenizer = transformers.XLMRobertaTokenizer(vocab=scored)
    config = transformers.XLMRobertaConfig(
        vocab_size=len(tokenizer), **BERT_LIKE, max_position_embeddings=66, type_vocab_size=1
    )
    return transformers.XLMRobertaModel(config), tokenizer, "mean"


def byte_level(*special):
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*special, *letters, "th", "the"])}
    model = tokenizers.models.BPE(vocab=vocabulary, merges=[("t", "h"), ("th", "e")])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def closed(tokenizer, single, **named):
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single, special_tokens=[(one, tokenizer.token_to_id(one)) for one in named.values()]
    )
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    made.pad_token = next(iter(named.values()))
    return made


def modernbert():
    tokenizer = closed(
        byte_level("[PAD]", "[CLS]", "[SEP]"), "[CLS] $A [SEP]", a="[CLS]", b="[SEP]"
    )
    config = transformers.ModernBertConfig(
        vocab_size=len(tokenizer),
        **{**BERT_LIKE, "num_hidden_layers": 4},
        max_position_embeddings=128,
        local_attention=12,
        global_rope_theta=5000.0,
        pad_token_id=0,
    )
    return transformers.ModernBertModel(config), tokenizer, "cls"


def qwen3():
    tokenizer = closed(byte_level("<|endoftext|>"), "$A <|endoftext|>", a="<|endoftext|>")
    tokenizer.padding_side = "left"
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        **{**BERT_LIKE, "num_attention_heads": 4},
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=96,
        tie_word_embeddings=True,
        architectures=["Qwen3ForCausalLM"],
    )
    return transformers.Qwen3Model(config), tokenizer, "lasttoken"


def gemma3():
    tokenizer = closed(
        byte_level("<pad>", "<eos>", "<bos>"), "<bos> $A <eos>", a="<pad>", b="<eos>", c="<bos>"
    )
    config = transformers.Gemma3TextConfig(
        vocab_size=len(tokenizer),
        **{**BERT_LIKE, "num_hidden_layers": 2},
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=96,
        sliding_window=22,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
        query_pre_attn_scalar=5,
        use_bidirectional_attention=True,
        pad_token_id=0,
    )
    return transformers.Gemma3TextModel(config), tokenizer, "mean"


def randomize(model):
    """Weights that no part can be left out of: biases and norms start at 0 and 1, which hides."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        is_scale = "norm" in name.lower() and name.endswith("weight")
        torch.nn.init.normal_(parameter, float(is_scale), 0.4)
    return model.eval()


def write(folder, make):
    model, tokenizer, pooling = make()
    randomize(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    width = model.config.hidden_size
    if tokenizer.pad_token == "<pad>":
        # Where positions begin behind the padding's, the library takes texts that it cannot place.
        limit = model.config.max_position_embeddings - 2
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit}))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"embedding_dimension": width, "pooling_mode": pooling})
    )
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
                for i, (kind, path) in enumerate(
                    [("models.Transformer", ""), ("models.Pooling", "1_Pooling")]
                )
            ]
        )
    )
    return folder


@pytest.mark.parametrize(
    "make",
    [bert, distilbert, mpnet, roberta, xlm_roberta, modernbert, qwen3, gemma3],
    ids=lambda make: make.__name__,
)
def test_a_family_equals_sentence_transformers_in_any_company(tmp_path, make):
    folder = write(tmp_path / "encoder", make)
    theirs = library.SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"}
    )
    told = [*texts(), "", "a <pad> b", "[SEP]", "naïve 日本語"]
    expected = theirs.encode(told, normalize_embeddings=True, show_progress_bar=False)
    encoder = SentenceEncoder(folder)
    found = encoder.encode(told)
    assert np.sum(found.astype(np.float64) * expected, axis=1).min() >= 0.99999
    # Far less than texts lie apart.
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert found.std(axis=0).max() > 0.01
    some = np.random.default_rng(0).permutation(len(told))[:50]
    assert (encoder.encode([told[i] for i in some]) == found[some]).all()


def test_what_embedding_gemma_consists_of_is_read_as_the_library_saves_it(tmp_path):
    parts = pytest.importorskip("sentence_transformers.models")
    plain = torch.nn.Identity()
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    theirs = library.SentenceTransformer(
        modules=[
            parts.Transformer(str(write(tmp_path / "plain", gemma3))),
            parts.Pooling(16, "mean"),
            parts.Dense(16, 48, bias=False, activation_function=plain),
            parts.Dense(48, 12, bias=False, activation_function=plain),
            parts.Normalize(),
        ],
        prompts=prompts,
        device="cpu",
    )
    theirs.save_pretrained(str(tmp_path / "whole"))
    encoder = SentenceEncoder(tmp_path / "whole")
    assert encoder.prompts["query"] == prompts["query"]
    told = texts()[:4]
    for name, prompt in prompts.items():
        expected = theirs.encode(told, prompt_name=name, show_progress_bar=False)
        np.testing.assert_allclose(encoder.encode([prompt + t for t in told]), expected, atol=2e-5)


def test_distances_fall_into_the_buckets_of_transformers():
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    apart = torch.arange(300)[None] - torch.arange(300)[:, None]
    expected = MPNetEncoder.relative_position_bucket(apart, num_buckets=32).numpy()
    np.testing.assert_array_equal(buckets(300, 32), expected)


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_bare_decoder_is_read_at_its_last_token_unless_it_chats(tmp_path):
    folder = write(tmp_path / "encoder", qwen3)
    listed = SentenceEncoder(folder)
    (folder / "modules.json").unlink()
    change(folder / "config.json", architectures=["Qwen3ForCausalLM"])
    bare = SentenceEncoder(folder)
    assert bare.fingerprint == listed.fingerprint
    change(folder / "tokenizer_config.json", chat_template="{{ messages[0].content }}")
    with pytest.raises(UserError, match=r"no modules\.json but a chat template"):
        SentenceEncoder(folder)


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (bert, {"whitening": True}, "whitening is True, a key not known here"),
        (mpnet, {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets is 64"),
        (roberta, {"position_embedding_type": "relative_key"}, "is 'relative_key'"),
        (distilbert, {"activation": "relu"}, "activation is 'relu'"),
        (modernbert, {"layer_types": ["full_attention"]}, "layer_types has 1 of 4 layers"),
        (
            modernbert,
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "rope_type is 'yarn'",
        ),
        (qwen3, {"model_type": "gemma2"}, "model_type is 'gemma2', but only 'bert'"),
        (
            gemma3,
            {"use_bidirectional_attention": "vision"},
            "use_bidirectional_attention is 'vision'",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_a_family_does_not_compute_is_refused(tmp_path, make, changes, message):
    make()[0].config.save_pretrained(tmp_path)
    change(tmp_path / "config.json", **changes)
    with pytest.raises(UserError, match=message):
        read_encoder_config(tmp_path)
