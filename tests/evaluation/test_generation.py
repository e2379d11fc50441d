"""Generated text: transformers' own, and the same whatever the batch, its order and the mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.evaluation.decoding import PRESETS, Sampling, choose, idle, kept, parse
from zsg_jax.evaluation.generation import Generator, Prompt, Written
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.huggingface.write import write
from zsg_jax.models.lora import LoRA, merge
from zsg_jax.models.model import abstract
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import sharding

pytestmark = pytest.mark.references

WORDS, EOS = 37, (3, 11)
RNG = np.random.default_rng(5)
PROMPTS = [RNG.integers(0, WORDS, n).astype(np.int32) for n in (1, 9, 20, 31, 3, 33)]
IDS = [f"example {i}" for i in range(len(PROMPTS))]
MESH = sharding.make_mesh(1, 1)
STUDY = PRESETS["study"]


def make(family, lora=None, **changes):
    """A small random model whose layers show, on `MESH`."""
    shape = {"num_layers": 2, "hidden_size": 32, "intermediate_size": 48}
    if family != "gpt2":
        shape["head_dim"] = 8
    model = FAMILIES[family].sized("tiny", WORDS, 80)
    if family != "gpt2":
        shape["windows"] = tuple(window and 5 for window in model.windows)
        shape["num_layers"] = max(2, model.period)
    model = dataclasses.replace(model, **shape | changes)
    graphdef, shapes = abstract(model, lora=lora)
    rng = np.random.default_rng(1)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(
            rng.normal(size=leaf.shape) * 0.25 + ("scale" in str(path)), jnp.float32
        ),
        shapes,
    )
    return model, graphdef, params


def generator(model, graphdef, params, sampling, **more):
    made = Generator(graphdef, model, MESH, sampling, **{"eos": EOS, **more})

    def write(params, prompts, ids, **draw):
        asked = [Prompt(*pair, **draw) for pair in zip(prompts, ids, strict=True)]
        return made(params, asked)

    write.compiled = made.compiled
    return write


@pytest.mark.parametrize(
    ("family", "penalty"), [("llama", 1.0), *((family, 1.3) for family in FAMILIES)]
)
def test_greedy_text_is_that_of_transformers(family, penalty, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, graphdef, params = make(family)
    write(tmp_path, model, params, source=None)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    sampling = Sampling(12, repetition_penalty=penalty, penalty_on="all")
    one = generator(model, graphdef, params, sampling, batch_size=4)
    # Without the penalty a longer one too, for which more is compiled.
    prompts = PROMPTS if penalty == 1 else PROMPTS[:5]
    for prompt, written in zip(prompts, one(params, prompts, IDS[: len(prompts)]), strict=True):
        ids = torch.tensor(prompt[None]).long()
        expected = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            repetition_penalty=penalty,
            eos_token_id=list(EOS),
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        ended = "eos" if expected[-1] in EOS else "length"
        assert written == Written(expected[:-1] if ended == "eos" else expected, ended)
    # The two shortest prompts, and four of up to 33 tokens; caches have room for 12 more.
    lengths = [("prompts", 32), ("texts", 44), ("prompts", 48), ("texts", 60)]
    assert one.compiled == (lengths if penalty == 1 else lengths[:2])


@pytest.mark.ci
@pytest.mark.slow
def test_layers_in_a_loop_and_adapters_write_what_the_merged_weights_do():
    lora = LoRA(2, 4.0)
    model, graphdef, params = make("qwen3", lora, num_layers=9, windows=(4, None))
    plain, merged = abstract(model)[0], merge(params, lora)
    sampling = Sampling(6)
    adapted = generator(model, graphdef, params, sampling)(params, PROMPTS[:3], IDS[:3])
    assert adapted == generator(model, plain, merged, sampling)(merged, PROMPTS[:3], IDS[:3])


def test_batch_order_and_size_change_no_text_and_seed_and_sample_do():
    made = make("llama")
    params, prompts, ids = made[2], PROMPTS[:5], IDS[:5]
    together, two = (
        generator(*made, STUDY._replace(max_new_tokens=10), batch_size=size) for size in (8, 2)
    )
    texts = dict(zip(ids, together(params, prompts, ids), strict=True))
    assert all(text.tokens for text in texts.values())  # none is empty in the study
    backward = two(params, prompts[::-1], ids[::-1])
    assert dict(zip(ids[::-1], backward, strict=True)) == texts
    for prompt, name in zip(prompts[:2], ids, strict=False):
        assert two(params, [prompt], [name]) == [texts[name]]
    for other in ({"sample": 1}, {"seed": 1}):
        assert together(params, prompts, ids, **other) != list(texts.values())


CHILD = """
import dataclasses, json
import jax, numpy as np
from zsg_jax.evaluation.generation import Generator, Prompt
from zsg_jax.evaluation.decoding import PRESETS
from zsg_jax.models.families import FAMILIES
from zsg_jax.models.model import abstract, initialize
from zsg_jax.training import sharding

model = FAMILIES["llama"].sized("tiny", 45, 80)
params = jax.jit(initialize, static_argnums=0)(model, jax.random.key(0))
params = jax.device_get(jax.tree.map(lambda x: 4 * x if x.ndim > 2 else x, params))
rng = np.random.default_rng(5)
prompts = [
    Prompt(rng.integers(0, 45, n).astype(np.int32), name)
    for n, name in zip((1, 9, 20, 30, 3), "abcde")]
sampled = PRESETS["study"]._replace(max_new_tokens=8)
told = []
for sizes in ((1, 1, 1), (2, 2, 2)):
    mesh = sharding.make_mesh(*sizes)
    more = sharding.vocabulary_padding(45, mesh)
    padded = dataclasses.replace(model, vocab_padding=more)
    table = np.pad(params["embed"]["embedding"], ((0, more), (0, 0)))
    own = params | {"embed": {"embedding": table}}
    placed = jax.device_put(own, sharding.shardings(own, mesh))
    one = Generator(abstract(padded)[0], padded, mesh, sampled, eos=(3,), batch_size=3)
    told.append([text.tokens for text in one(placed, prompts)])
print(json.dumps(told))
"""


LLAMA = make("llama")


@given(
    lengths=st.lists(st.integers(1, 68), min_size=1, max_size=40), size=st.sampled_from([1, 3, 8])
)
def test_batches_hold_every_prompt_once_and_are_full_but_one(lengths, size):
    model, graphdef, _ = LLAMA
    one = Generator(graphdef, model, MESH, Sampling(12), eos=EOS, batch_size=size)
    batches = one.batches([Prompt(np.zeros(n, np.int32), str(i)) for i, n in enumerate(lengths)])
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == size for batch in batches[1:])
    assert 0 < len(batches[0]) <= size
    in_order = [lengths[i] for batch in batches for i in batch]
    assert in_order == sorted(lengths)


@pytest.mark.ci
@pytest.mark.slow
def test_every_mesh_writes_the_same(on_devices):
    told, _ = on_devices(8, CHILD)
    one, other = told
    assert other == one
    assert len({tuple(text) for text in one}) == 5


def test_texts_end_at_any_end_and_the_reason_is_told():
    made = make("gpt2")
    params, free = made[2], Sampling(12)
    texts = generator(*made, free, eos=())(params, PROMPTS[:5], IDS[:5])
    assert {text.ended for text in texts} == {"length"}
    first, second = texts[1].tokens, texts[2].tokens
    stop = tuple(first[4:6])
    found = generator(*made, free, eos=(second[3],), stops=(stop, (WORDS, WORDS)))
    for text, written in zip(texts, found(params, PROMPTS[:5], IDS[:5]), strict=True):
        tokens = text.tokens
        ends = {tokens.index(second[3]): "eos"} if second[3] in tokens else {}
        pairs = [tuple(tokens[i : i + 2]) for i in range(11)]
        if stop in pairs and pairs.index(stop) + 1 < min(ends, default=99):
            ends = {pairs.index(stop): "stop"}
        ((end, why),) = ends.items() if ends else [(12, "length")]
        assert written == Written(tokens[:end], why, [*stop] if why == "stop" else ())
    later = generator(*made, free._replace(min_new_tokens=5), eos=(second[0],))
    assert all(len(text.tokens) >= 5 for text in later(params, PROMPTS[:5], IDS[:5]))


@settings(max_examples=15)
@given(
    st.lists(st.integers(-8, 8), min_size=2, max_size=9),
    st.floats(0.05, 1.0),
    st.integers(0, 9),
)
def test_the_fewest_tokens_are_kept_that_have_the_probability(logits, share, most):
    ordered = np.sort(np.array(logits, np.float32) / 2)[::-1]
    sampling = Sampling(temperature=1.0, top_p=share, top_k=most)
    found = np.isfinite(np.asarray(kept(jnp.asarray(ordered.copy()), sampling)))
    count = most or len(logits)
    chances = np.exp(ordered[:count].astype(np.float64))
    total = np.cumsum(chances / chances.sum())
    # Sums in float32 decide what is as near as rounding.
    fewest = [int(np.searchsorted(total, share + off)) + 1 for off in (-1e-6, 1e-6)]
    assert found.sum() in range(fewest[0], fewest[1] + 1) or found.sum() == len(chances)
    assert found[: found.sum()].all()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.7),
        Sampling(temperature=1.3, top_p=0.8),
        Sampling(temperature=1.0, top_k=3),
    ],
)
def test_draws_have_the_frequencies_of_the_distribution(sampling):
    logits, draws = np.array([0.3, 1.9, -0.5, 1.1, 0.3, 2.2], np.float32), 6000
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(draws))
    many = jnp.broadcast_to(jnp.asarray(logits), (draws, 6))
    drawn = jax.jit(choose, static_argnums=2)(many, keys, sampling)
    chances = np.exp(logits.astype(np.float64) / sampling.temperature)
    order = np.argsort(-chances, kind="stable")
    if sampling.top_k:
        chances[order[sampling.top_k :]] = 0
    chances /= chances.sum()
    if sampling.top_p < 1:
        before = np.cumsum(chances[order]) - chances[order]
        chances[order[before >= sampling.top_p]] = 0
        chances /= chances.sum()
    counts = np.bincount(drawn, minlength=6)
    assert (counts[chances == 0] == 0).all()
    expected = draws * chances[chances > 0]
    # Chi-square, at most 5 degrees of freedom: 1 in 1,000 is above 20.5.
    assert ((counts[chances > 0] - expected) ** 2 / expected).sum() < 20.5


def test_the_likeliest_token_is_the_first_of_equals():
    assert choose(jnp.array([[1.0, 2.0, 2.0]]), None, Sampling()).tolist() == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_p": 0.0}, r"top_p=0\.0; give a share above 0"),
        ({"min_new_tokens": 200}, "min_new_tokens=200; give a whole number from 0 to"),
        ({"penalty_on": "prompt"}, "penalty_on='prompt'; give generated or all"),
        ({"temperature": -1.0}, r"temperature=-1\.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Sampling(**changes).refuse_none()


def test_settings_are_read_from_text():
    assert parse("study, max_new_tokens=64") == STUDY._replace(max_new_tokens=64)
    assert parse("study,temperature=0") == STUDY._replace(temperature=0)
    assert parse("temperature=0.5,penalty_on=all") == Sampling(temperature=0.5, penalty_on="all")
    for text, message in {
        "greddy": "did you mean greedy",
        "top_p=much": "must be a number",
        "top_k=1.5": "must be a whole number",
        "study,top_p=2": "give a share",
    }.items():
        with pytest.raises(UserError, match=message):
            parse(text)
    for text in ("greedy,samples=4", "study,temperature=0,samples=4"):
        assert "samples without effect" in idle(text)
    for text in ("study", "study,temperature=0", "greedy,samples=1", "study,samples=4"):
        assert not idle(text)


def test_weights_that_give_no_number_are_told_with_the_example():
    made = make("llama")
    bad = jax.tree.map(lambda leaf: leaf * jnp.nan, made[2])
    with pytest.raises(UserError, match="example 0: its logits are not finite"):
        generator(*made, Sampling(4))(bad, PROMPTS[:2], IDS[:2])


def test_a_prompt_without_room_is_refused_by_name():
    made = make("gpt2")
    with pytest.raises(UserError, match=r"long one: a prompt of 70 tokens; .* room for 1 to 68"):
        generator(*made, Sampling(12))(made[2], [np.zeros(70, np.int32)], ["long one"])
