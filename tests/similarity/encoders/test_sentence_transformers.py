"""Every kind of folder against sentence-transformers itself, on small random weights."""

import json
import shutil

import numpy as np
import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.folder import POOLINGS
from zsg_jax.similarity.encoders.registry import prompt_text
from zsg_jax.similarity.encoders.sentence import SentenceEncoder

pytestmark = pytest.mark.references

library = pytest.importorskip("sentence_transformers")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WORDS = ["the", "cat", "sat", "on", "Mat", "and", "ran", "query", ":", "is", "this", "true", "?"]
TEXTS = [
    "",
    "The CAT sat on a mat",
    "query: is this true?",
    "Café naïve résumé 日本語 ran",
    "the rain fell [SEP] and ran",
    " ".join(np.random.default_rng(0).choice(WORDS, 90)),
    " ".join(np.random.default_rng(1).choice(WORDS, 30)),
]


def edit(path, **changes):
    """Changes keys of a JSON object in a file; None removes one."""
    path.parent.mkdir(exist_ok=True)
    values = json.loads(path.read_text()) if path.exists() else {}
    values = {k: v for k, v in (values | changes).items() if v is not None}
    path.write_text(json.dumps(values))


def modules(folder, *kinds):
    paths = [f"{i}_{kind}" if i else "" for i, kind in enumerate(kinds)]
    listing = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(listing))
    for path in paths[1:]:
        (folder / path).mkdir(exist_ok=True)


def randomize(model):
    """Weights that no part can be left out of: biases and norms start at 0 and 1, which hides."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        is_scale = "norm" in name.lower() and name.endswith("weight")
        torch.nn.init.normal_(parameter, float(is_scale), 0.4)
    return model.eval()


def bert_tokenizer(make, **settings):
    letters = [chr(i) for i in (*range(33, 65), *range(91, 127))] + ["é", "ï", "日"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "mat", *letters]
    pieces += ["##" + one for one in letters]
    return make(vocab={piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, **settings)


def write(folder, *, positions=16):
    """A random BERT of one layer with mean pooling, as sentence-transformers saves one."""
    tokenizer = bert_tokenizer(transformers.BertTokenizer)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=positions,
    )
    randomize(transformers.BertModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    edit(folder / "sentence_bert_config.json", max_seq_length=14, do_lower_case=False)
    edit(folder / "1_Pooling" / "config.json", pooling_mode_mean_tokens=True)
    edit(folder / "1_Pooling" / "config.json", word_embedding_dimension=16)
    modules(folder, "Transformer", "Pooling", "Normalize")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "bert")


@pytest.fixture(scope="module")
def before(made):
    return SentenceEncoder(made).encode(TEXTS)


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "bert")


def theirs(folder, texts=TEXTS, **how):
    model = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return model.encode(texts, normalize_embeddings=True, show_progress_bar=False, **how)


def cosines(ours, expected):
    assert ours.shape == expected.shape
    return np.sum(ours.astype(np.float64) * expected, axis=1)


def assert_equal(folder, texts=TEXTS):
    ours = SentenceEncoder(folder).encode(texts)
    assert cosines(ours, theirs(folder, texts)).min() >= 0.99999
    return ours


SETTINGS = {
    "as it was saved": lambda f: None,
    "truncate_dim": lambda f: (
        edit(f / "config_sentence_transformers.json", truncate_dim=5),
        modules(f, "Transformer", "Pooling"),
    ),
    "tokenizer_config do_lower_case": lambda f: edit(
        f / "tokenizer_config.json", do_lower_case=False
    ),
    "tokenizer_config strip_accents": lambda f: edit(
        f / "tokenizer_config.json", strip_accents=False, tokenize_chinese_chars=False
    ),
    "no tokenizer_config": lambda f: (
        (f / "tokenizer_config.json").unlink(),
        edit_normalizer(f, lowercase=False),
    ),
    "sentence_bert_config do_lower_case": lambda f: (
        edit(f / "tokenizer_config.json", do_lower_case=False),
        edit(f / "sentence_bert_config.json", do_lower_case=True),
    ),
    "truncation_side": lambda f: edit(f / "tokenizer_config.json", truncation_side="left"),
    "truncation_side of tokenizer.json": lambda f: edit(
        f / "tokenizer.json",
        truncation={
            "direction": "Left",
            "max_length": 9,
            "strategy": "LongestFirst",
            "stride": 0,
        },
    ),
    "processing_kwargs": lambda f: edit(
        f / "sentence_bert_config.json", processing_kwargs={"text": {"max_length": 8}}
    ),
    "model_max_length": lambda f: (
        edit(f / "sentence_bert_config.json", max_seq_length=None),
        edit(f / "tokenizer_config.json", model_max_length=12),
    ),
    "no limit but the model's": lambda f: (
        edit(f / "sentence_bert_config.json", max_seq_length=None),
        edit(f / "tokenizer_config.json", model_max_length=int(1e30)),
    ),
    "sentence_roberta_config": lambda f: (f / "sentence_bert_config.json").rename(
        f / "sentence_roberta_config.json"
    ),
    "bare": lambda f: bare(f),
    "cls": lambda f: edit(
        f / "1_Pooling" / "config.json",
        pooling_mode_mean_tokens=False,
        pooling_mode_cls_token=True,
    ),
    "no pooling named": lambda f: edit(
        f / "1_Pooling" / "config.json", pooling_mode_mean_tokens=None
    ),
    "all poolings, dense": lambda f: (
        edit(
            f / "1_Pooling" / "config.json",
            pooling_mode=list(POOLINGS.values()),
            embedding_dimension=16,
        ),
        modules(f, "Transformer", "Pooling", "Dense", "Normalize", "Dense"),
        dense(f / "2_Dense", 96, 12, bias=True, activation="modules.activation.GELU"),
        dense(f / "4_Dense", 12, 7, bias=False, activation="modules.linear.Identity"),
    ),
}


SAME = ("as it was saved", "no pooling named", "sentence_roberta_config", "no tokenizer_config")


def edit_normalizer(folder, **changes):
    normalizer = json.loads((folder / "tokenizer.json").read_text())["normalizer"]
    edit(folder / "tokenizer.json", normalizer=normalizer | changes)


def bare(folder):
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()


def dense(folder, inputs, outputs, *, bias, activation):
    layer = library.models.Dense(inputs, outputs, bias=bias)
    torch.manual_seed(1)
    torch.nn.init.normal_(layer.linear.weight, 0.0, 0.5)
    layer.save(str(folder))
    edit(folder / "config.json", activation_function=f"torch.nn.{activation}")


@pytest.mark.parametrize("kind", SETTINGS)
def test_what_the_files_say_is_done_as_sentence_transformers_does_it(folder, before, kind):
    SETTINGS[kind](folder)
    ours = assert_equal(folder)
    if kind not in SAME:
        assert ours.shape != before.shape or cosines(ours, before).min() < 0.9999


def test_a_bare_folder_takes_the_models_tokens_and_not_less(tmp_path):
    folder = write(tmp_path / "long", positions=400)
    bare(folder)
    text = " ".join(np.random.default_rng(2).choice(WORDS, 500))
    assert_equal(folder, [text])
    assert SentenceEncoder(folder).max_tokens == 400


@pytest.mark.parametrize(
    "ask",
    [
        lambda f: edit(
            f / "1_Pooling" / "config.json",
            pooling_mode_cls_token=True,
            pooling_mode_mean_tokens=False,
        ),
        lambda f: edit(f / "config_sentence_transformers.json", truncate_dim=5),
        lambda f: edit(f / "sentence_bert_config.json", max_seq_length=9),
    ],
)
def test_files_that_only_modules_json_would_make_speak_are_refused_without_it(folder, ask):
    bare(folder)
    ask(folder)
    with pytest.raises(UserError, match=r"no modules\.json, without which"):
        SentenceEncoder(folder)


def test_prompts_stand_before_a_text_as_the_library_puts_them(folder):
    settings = folder / "config_sentence_transformers.json"
    edit(settings, prompts={"query": "query: ", "passage": "true ? "})
    encoder = SentenceEncoder(folder)
    assert prompt_text(encoder, None, "p") == ""
    for asked, how in (
        ("name:passage", {"prompt_name": "passage"}),
        ("the cat: ", {"prompt": "the cat: "}),
        ("", {"prompt": ""}),
    ):
        prompt = prompt_text(encoder, asked, "p")
        ours = encoder.encode([prompt + text for text in TEXTS])
        assert cosines(ours, theirs(folder, **how)).min() >= 0.99999
    for asked, message in (
        ("name:other", "no prompt of this name; it has 'query', 'passage'"),
        ("query", "give name:query for it"),
    ):
        with pytest.raises(UserError, match=message):
            prompt_text(encoder, asked, "p")
    edit(settings, default_prompt_name="query")
    prompt = prompt_text(SentenceEncoder(folder), None, "p")
    ours = encoder.encode([prompt + text for text in TEXTS])
    assert cosines(ours, theirs(folder)).min() >= 0.99999
    assert cosines(ours, encoder.encode(TEXTS)).min() < 0.9999
