"""Hidden states of decoders against transformers, by the published rules written out here."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from zsg_jax.arrangement.spaces import open_encoder
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.views import conversations
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.address import read_states

pytestmark = pytest.mark.references

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
LIKE = {**SMALL, "intermediate_size": 24, "num_key_value_heads": 1, "max_position_embeddings": 160}
READ = [
    "",
    ",pooling=mean",
    ",pooling=last",
    ",layer=1",
    ",layer=2,pooling=mean",
    ",tokens=answers",
    ",tokens=answers,pooling=mean,layer=2",
    ",tokens=answers,pooling=last",
]


def byte_level(folder):
    transformers = pytest.importorskip("transformers")
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(["<s>", "</s>", *letters, "th", "the"])}
    model = tokenizers.models.BPE(vocab=vocabulary, merges=[("t", "h"), ("th", "e")])
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    named = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>"
    )
    named.save_pretrained(folder)
    return len(vocabulary)


def write(folder, family="Llama", **changes):
    """A random model of a family and its tokenizer, in the Hugging Face layout."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": byte_level(folder), **LIKE, "tie_word_embeddings": False}
    if family == "GPT2":
        sizes = {"vocab_size": sizes["vocab_size"], "n_embd": 16, "n_layer": 3, "n_head": 2}
        sizes["n_positions"] = 160
    if family == "Qwen3":
        sizes["head_dim"] = 8
    sizes |= {"bos_token_id": 0, "eos_token_id": 1}
    config = getattr(transformers, f"{family}Config")(**sizes | changes)
    architecture = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(config)
    for name, parameter in model.named_parameters():
        is_scale = ("norm" in name.lower() or "ln_" in name) and name.endswith("weight")
        torch.nn.init.normal_(parameter, float(is_scale), 0.4)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return write(tmp_path_factory.mktemp("models") / "llama")


def instance(*contents, system=""):
    roles = ["user", "assistant"] * len(contents)
    turns = [Turn(role, content) for role, content in zip(roles, contents, strict=False)]
    turns = [Turn("system", system)] * bool(system) + turns
    return Instance("row", "task", tuple(turns), ())


def made_up():
    rng = np.random.default_rng(0)
    words = ["the", "cat,", "a", "mat?", "Where", "IS", "it", "(really)", "naïve", "日本"]
    said = [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(120)]
    two = [instance(*said[i : i + 2]) for i in range(0, 80, 2)]
    return [*two, instance(*said[80:84]), instance(*said[84:86], system="Be kind.")]


def in_the_studys_form(one, tokenizer):
    """The ids of a conversation and which of them an answer holds, as arXiv 2406.11721 has it."""
    ids, answer = [tokenizer.bos_token_id], [False]

    def add(text, learned=False):
        new = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids.extend(new)
        answer.extend([learned] * len(new))

    for number, turn in enumerate(one.turns):
        name = {"system": "System: ", "user": "User: ", "assistant": ""}[turn.role]
        if turn.role == "assistant":
            add("\nAssistant: ")
            add(turn.content.strip(), learned=True)
            ids.append(tokenizer.eos_token_id)
            answer.append(True)
        else:
            add("\n" * bool(number) + name + turn.content.strip())
    return ids, answer


def published(folder, sequences, settings):
    """Pooled states of each sequence by transformers, alone in its batch; in float64."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    layer = settings.layer or model.config.num_hidden_layers
    found = []
    for ids, answer in sequences:
        with torch.no_grad():
            given = model(torch.tensor([ids]), output_hidden_states=True)
        states = given.hidden_states[layer][0].double().numpy()
        if settings.tokens == "answers":
            states = states[np.array(answer)]
        weights = np.arange(1, len(states) + 1) if settings.pooling == "weighted" else 1
        weights = weights * np.ones(len(states))
        pooled = states[-1] if settings.pooling == "last" else weights / weights.sum() @ states
        found.append(pooled / np.linalg.norm(pooled))
    return np.array(found)


def agree(folder, instances, read, least=0.9999):
    transformers = pytest.importorskip("transformers")
    name = f"states:{folder}{read}"
    encoder = open_encoder(name, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    sequences = [in_the_studys_form(one, tokenizer) for one in instances]
    kept = [(ids[: encoder.max_tokens], answer[: encoder.max_tokens]) for ids, answer in sequences]
    expected = published(folder, kept, read_states(name))
    found = encoder.encode([conversations("both")(one) for one in instances])
    assert found.shape == (len(instances), encoder.dimension)
    assert np.sum(found * expected, axis=1).min() >= least
    return found


@pytest.mark.parametrize("read", READ)
def test_every_way_to_read_equals_transformers(llama, read):
    agree(llama, made_up(), read, least=0.99999)


@pytest.mark.parametrize("read", ["", ",layer=2,tokens=answers"])
@pytest.mark.parametrize("family", ["GPT2", "Qwen3"])
def test_other_families_equal_transformers(tmp_path, family, read):
    agree(write(tmp_path / "model", family), made_up(), read, least=0.99999)


@pytest.mark.parametrize(
    ("read", "every"),
    [
        ("", False),
        *(
            pytest.param(read, True, marks=pytest.mark.slow)
            for read in ("", ",pooling=mean", ",layer=3,pooling=last", ",tokens=answers")
        ),
    ],
)
def test_real_rows_equal_transformers(assets, read, every):
    folder = assets / "models" / "stories260k"
    with gzip.open(assets / "data" / "p3" / "train.jsonl.gz", "rt") as lines:
        rows = [[turn["content"] for turn in json.loads(line)["messages"]] for line in lines]
    rows.sort(key=lambda row: sum(map(len, row)))
    if "answers" in read:
        # What is cut at the tail has none left.
        rows = [row for row in rows if sum(len(text.encode()) for text in row) < 450]
    # Few widths, few compilations: the shortest and the longest.
    chosen = rows[:: len(rows) // 300] if every else [*rows[:20], *rows[-5:]]
    agree(folder, [instance(*row) for row in chosen], read)


def test_a_conversation_has_the_same_bits_in_any_company(llama):
    encoder = open_encoder(f"states:{llama},tokens=answers", llama)
    told = [conversations("both")(one) for one in made_up()]
    found, rng = encoder.encode(told), np.random.default_rng(0)
    for _ in range(3):
        some = rng.permutation(len(told))[: rng.integers(1, len(told))]
        assert (encoder.encode([told[i] for i in some]) == found[some]).all()


def test_prompts_alone_are_read_as_the_model_is_asked_and_texts_as_they_stand(llama):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    one = instance("Where is the cat?", "On the mat.")
    encoder, settings = open_encoder(f"states:{llama}", llama), read_states(f"states:{llama}")
    ids = tokenizer("User: Where is the cat?", add_special_tokens=False)["input_ids"]
    ids += tokenizer("\nAssistant: ", add_special_tokens=False)["input_ids"]
    text = tokenizer("query: On the mat.", add_special_tokens=False)["input_ids"]
    asked, said = [tokenizer.bos_token_id, *ids], [tokenizer.bos_token_id, *text]
    expected = published(llama, [(asked, None), (said, None)], settings)
    texts = [conversations("prompt")(one), conversations("answer", "query: ")(one)]
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=2e-5)
    unanswered = Instance("row", "task", one.turns[:1], ())
    assert conversations("both")(unanswered) == texts[0]


def test_a_chat_template_makes_the_text(llama, tmp_path):
    transformers = pytest.importorskip("transformers")
    template = (
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    (tmp_path / "form.jinja").write_text(template)
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    one = instance("Where is the cat?", "On the mat.")
    text = "<s><user>Where is the cat?<assistant>On the mat.</s>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    name = f"states:{llama},template={tmp_path / 'form.jinja'}"
    found = open_encoder(name, llama).encode([conversations("both")(one)])
    np.testing.assert_allclose(found, published(llama, [(ids, None)], read_states(name)), atol=2e-5)


def test_what_does_not_fit_loses_its_tail_or_the_words_of_its_prompt(llama):
    long = instance("the cat " * 60, "mat")
    short = conversations("both")(instance("a", "mat"))
    texts = [conversations("both")(long), short]
    tail = f"states:{llama},length=64"
    head, answers = f"{tail},truncation=head", f"{tail},tokens=answers"
    kept, other = (open_encoder(name, llama).encode(texts) for name in (tail, head))
    assert (kept[0] != other[0]).any()
    assert (kept[1] == other[1]).all()
    open_encoder(f"{answers},truncation=head", llama).encode(texts)
    with pytest.raises(UserError, match=r"'the cat the .*' has no answer token within 64 tokens"):
        open_encoder(answers, llama).encode(texts)


def test_the_fingerprint_follows_what_decides_an_embedding_and_nothing_else(llama, tmp_path):
    name = f"states:{llama}"
    first = open_encoder(name, llama).fingerprint
    assert open_encoder(f"{name},layer=3,pooling=weighted,length=4000", llama).fingerprint == first
    changes = (*READ[1:], ",length=50", ",truncation=middle")
    seen = [open_encoder(name + change, llama).fingerprint for change in changes]
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] += 0.5
    other = write(tmp_path / "other")
    model.save_pretrained(other)
    seen += [first, open_encoder(f"states:{other}", other).fingerprint]
    assert len(set(seen)) == len(seen)
    # What comes after the layer that is read decides nothing.
    one, same = (open_encoder(f"states:{at},layer=1", at) for at in (llama, other))
    assert one.fingerprint == same.fingerprint


def encoder_only(folder):
    write(folder)
    (folder / "modules.json").write_text("[]")


def bert(folder):
    write(folder)
    config = json.loads((folder / "config.json").read_text())
    changes = {"model_type": "bert", "architectures": ["BertModel"]}
    (folder / "config.json").write_text(json.dumps(config | changes))


def many_words(folder):
    write(folder, vocab_size=200)


@pytest.mark.parametrize(
    ("damage", "read", "message"),
    [
        (None, ",layer=4", "layer=4, but the model has 3; give 1 to 3"),
        (None, ",template=chat", "holds no chat template"),
        (None, ",template=none.jinja", "'none.jinja' is no file"),
        (encoder_only, "", "is a sentence encoder; name its folder alone"),
        (bert, "", "model_type is 'bert'"),
        (many_words, "", "the tokenizer has 260 entries, the model only 200"),
        (lambda f: (write(f) / "tokenizer.json").unlink(), "", r"has no tokenizer\.json"),
        (lambda f: (write(f) / "model.safetensors").unlink(), "", r"model\.safetensors"),
        (lambda f: (write(f) / "config.json").unlink(), "", "no run of a study; give a Hugging"),
        (lambda f: None, "", "no such folder; give a Hugging Face folder, a run as WORKDIR"),
    ],
)
def test_what_is_no_decoder_that_can_be_read_is_refused(llama, tmp_path, damage, read, message):
    folder = tmp_path / "model" if damage else llama
    if damage:
        damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        open_encoder(f"states:{folder}{read}", Path(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
