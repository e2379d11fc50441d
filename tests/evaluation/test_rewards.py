"""Rewards: transformers' own logits at the last real token, whatever shares the batch."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer, from_folder, train_bpe
from zsg_jax.evaluation.rewards import RewardModel
from zsg_jax.models.placement import Compute
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import sharding

MESH = sharding.make_mesh(1, 1)
BYTES = ByteTokenizer()
PROMPTS = [
    (Turn("user", "Say a word."),),
    (Turn("system", "Be kind."), Turn("user", "Who?")),
    (Turn("user", "One"), Turn("assistant", "two"), Turn("user", "three é")),
    (Turn("user", "And a longer one, " * 9),),
]
TEXTS = ["word", "It was I.\n", "four", "no"]
WRITTEN = [
    "Human: Say a word.\n\nAssistant: word",
    "Human: Be kind.\n\nWho?\n\nAssistant: It was I.\n",
    "Human: One\n\nAssistant: two\n\nHuman: three é\n\nAssistant: four",
    f"Human: {'And a longer one, ' * 9}\n\nAssistant: no",
]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Writes a small random classifier of sequences as transformers does; gives its folder."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    def make(family, labels=1):
        torch.manual_seed(3)
        shape = {"vocab_size": 258, "hidden_size": 32, "intermediate_size": 48}
        shape |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        shape |= {"max_position_embeddings": 512, "num_labels": labels, "pad_token_id": 0}
        if family == "Qwen3":
            shape["head_dim"] = 8
        if family == "Mistral":
            shape["sliding_window"] = 20
        config = getattr(transformers, f"{family}Config")(**shape, initializer_range=0.3)
        model = getattr(transformers, f"{family}ForSequenceClassification")(config)
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        BYTES.save(folder)
        return folder

    return make


def ids_of(text):
    return [256, *text.encode()]


@pytest.mark.references
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral"])
def test_rewards_are_the_logits_of_transformers(classifier, family):
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = classifier(family)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = list(map(ids_of, WRITTEN))
    longest = max(map(len, rows))
    model = RewardModel(folder, MESH, batch_size=2, max_length=512)
    ours = model.score(PROMPTS, TEXTS)
    assert (ours.shape, ours.dtype, model.cut) == ((4,), np.float64, 0)
    for left in (True, False):
        # A text may hold the padding id, 0, and still ends where its mask does.
        pads = [[0] * (longest - len(row)) for row in rows]
        tokens = [pad + row if left else row + pad for pad, row in zip(pads, rows, strict=True)]
        masks = [
            [0] * len(pad) + [1] * len(row) if left else [1] * len(row) + [0] * len(pad)
            for pad, row in zip(pads, rows, strict=True)
        ]
        mask = torch.tensor(masks)
        with torch.no_grad():
            logits = theirs(
                input_ids=torch.tensor(tokens),
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            ).logits[:, 0]
        np.testing.assert_allclose(ours, logits.numpy(), atol=1e-4)
    # Alone, together and in another order they are the same.
    for number in range(4):
        alone = model.score(PROMPTS[number : number + 1], TEXTS[number : number + 1])
        np.testing.assert_allclose(alone[0], ours[number], atol=1e-5)
    np.testing.assert_allclose(model.score(PROMPTS[::-1], TEXTS[::-1]), ours[::-1], atol=1e-5)
    half = RewardModel(folder, MESH, compute=Compute(jnp.bfloat16), max_length=512)
    np.testing.assert_allclose(half.score(PROMPTS, TEXTS), ours, atol=0.3)


@pytest.mark.references
def test_a_padding_id_inside_a_text_ends_nothing(classifier):
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = classifier("Llama")
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    model = RewardModel(folder, MESH, max_length=512)
    # The id 0 is this model's padding and the byte that ends the text.
    ours = model.score(PROMPTS[:1], ["word\x00"])
    ids = torch.tensor([ids_of(WRITTEN[0] + "\x00")])
    with torch.no_grad():
        states = theirs.model(ids).last_hidden_state
        expected = theirs.score(states)[0, -1, 0]
    np.testing.assert_allclose(ours[0], float(expected), atol=1e-4)


@pytest.mark.references
def test_the_layout_of_ultrarm_and_templates(classifier, tmp_path):
    folder = classifier("Llama")
    ours = RewardModel(folder, MESH, max_length=512).score(PROMPTS, TEXTS)
    tensors = load_file(folder / "model.safetensors")
    tensors["regression_head.weight"] = tensors.pop("score.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["LlamaRewardModel"]
    (folder / "config.json").write_text(json.dumps(config))
    ultra = RewardModel(folder, MESH, max_length=512)
    np.testing.assert_array_equal(ultra.score(PROMPTS, TEXTS), ours)
    instances = [
        Instance(f"i{n}", "t", (*turns, Turn("assistant", text)), (text,))
        for n, (turns, text) in enumerate(zip(PROMPTS, TEXTS, strict=True))
    ]

    np.testing.assert_allclose(
        ultra.of(instances)([2, 0], [TEXTS[2], TEXTS[0]]), ours[[2, 0]], atol=1e-5
    )

    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "same.jinja").write_text(TEMPLATE)
    chat = RewardModel(folder, MESH, template="chat", max_length=512)
    file = RewardModel(folder, MESH, template=str(tmp_path / "same.jinja"), max_length=512)
    other = chat.score(PROMPTS, TEXTS)
    np.testing.assert_array_equal(file.score(PROMPTS, TEXTS), other)
    assert (np.abs(other - ours) > 1e-3).all()


@pytest.mark.references
def test_a_prompt_is_cut_and_counted_and_a_text_never(classifier):
    folder = classifier("Qwen2")
    whole = RewardModel(folder, MESH, max_length=512)
    # The form and bos are 20 tokens, the text with its blank 10: ten letters are left.
    cut = RewardModel(folder, MESH, max_length=40)
    words = "x" * 90 + "the end."
    told = cut.score([(Turn("user", words),), (Turn("user", "?"),)], ["all of it", "a"])
    assert cut.cut == 1
    kept = whole.score([(Turn("user", words[-10:]),)], ["all of it"])
    np.testing.assert_allclose(told[0], kept[0], atol=1e-5)
    nothing = cut.score([(Turn("user", words),)], [""])
    assert cut.cut == 2
    kept = [whole.score([(Turn("user", words[-n:]),)], [""])[0] for n in range(10, 22)]
    assert np.isclose(nothing[0], kept, atol=1e-5).any()
    with pytest.raises(UserError, match="alone has more than the 40 tokens"):
        cut.score(PROMPTS[:1], ["y" * 50])


@pytest.mark.references
def test_what_gives_no_reward_is_refused_by_name(classifier):
    several = classifier("Llama", labels=3)
    with pytest.raises(UserError, match=r"score\.weight gives 3 scores \(num_labels\)"):
        RewardModel(several, MESH, max_length=512)
    folder = classifier("Llama")
    with pytest.raises(UserError, match="do not fit the model's 512 positions"):
        RewardModel(folder, MESH, max_length=2048)
    tensors = load_file(folder / "model.safetensors")
    score = tensors.pop("score.weight")
    path = folder / "model.safetensors"
    save_file(tensors, path)
    with pytest.raises(UserError, match="its rewards would be random"):
        RewardModel(folder, MESH, max_length=512)
    save_file(tensors | {"score.weight": score, "score.bias": score[0, :1]}, path)
    with pytest.raises(UserError, match=r"no place for, such as 'score\.bias'"):
        RewardModel(folder, MESH, max_length=512)
    save_file(tensors | {"score.weight": score * np.float32(np.nan)}, path)
    with pytest.raises(UserError, match="the reward of 'word' is nan"):
        RewardModel(folder, MESH, max_length=512).score(PROMPTS, TEXTS)


@pytest.mark.references
def test_a_tokenizer_that_the_model_does_not_know_is_refused(classifier):
    folder = classifier("Llama")
    train_bpe(["a b a b a b c"] * 9, 262).save(folder)
    with pytest.raises(UserError, match=r"its tokenizer has 26. entries, its model only 258"):
        RewardModel(folder, MESH, max_length=512)


@pytest.mark.references
def test_files_that_are_pickled_are_refused_with_the_line_that_converts_them(classifier):
    import shlex
    import subprocess
    import sys

    import torch

    folder = classifier("Llama")
    expected = RewardModel(folder, MESH, max_length=512).score(PROMPTS, TEXTS)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for number, names in enumerate((sorted(tensors)[:9], sorted(tensors)[9:])):
        part = {name: torch.from_numpy(tensors[name]) for name in names}
        torch.save(part, folder / f"pytorch_model-0000{number}-of-00002.bin")
    with pytest.raises(UserError, match=r"has \.bin files and no safetensors") as caught:
        RewardModel(folder, MESH, max_length=512)
    _, _, line = str(caught.value).partition("write them by: python ")
    subprocess.run([sys.executable, *shlex.split(line)], check=True)
    again = RewardModel(folder, MESH, max_length=512)
    np.testing.assert_array_equal(again.score(PROMPTS, TEXTS), expected)
    assert from_folder(folder).vocab_size == 258


CHILD = """
import json, sys
from zsg_jax.data.instance import Turn
from zsg_jax.evaluation.rewards import RewardModel
from zsg_jax.training import sharding

prompts = [(Turn("user", "p" * (7 * k + 1)),) for k in range(9)]
texts = ["t" * (k + 1) for k in range(9)]
told = []
for sizes in ((1, 1, 1), (2, 2, 2)):
    model = RewardModel(sys.argv[1], sharding.make_mesh(*sizes), batch_size=3, max_length=512)
    told.append(model.score(prompts, texts).tolist())
print(json.dumps(told))
"""


@pytest.mark.references
def test_every_mesh_gives_the_same_rewards(classifier, on_devices):
    (one, *others), _ = on_devices(8, CHILD, classifier("Llama"))
    assert len(set(one)) == 9
    for other in others:
        np.testing.assert_allclose(other, one, atol=1e-5)
