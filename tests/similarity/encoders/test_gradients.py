"""Gradients of runs and folders as embeddings, against LESS written out in NumPy."""

import json
import shutil
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from orbax.checkpoint import v1 as ocp
from safetensors.numpy import load_file, save_file

import zsg_jax
from zsg_jax.arrangement.spaces import of_targets, open_encoder
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.views import conversations
from zsg_jax.models import huggingface
from zsg_jax.models.lora import LoRA, join
from zsg_jax.models.model import abstract, apply
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.embed import embed
from zsg_jax.similarity.encoders.projection import UNIT, signs
from zsg_jax.workflows import study

RUN, STEPS = "tmta-nft-seed0", (4, 8, 10)
ADAPTERS = LoRA(2, 4.0, ("q", "down"))


def told(*pairs):
    view = conversations("both")
    return [view(Instance(q, "", (Turn("user", q), Turn("assistant", a)), ())) for q, a in pairs]


TEXTS = told(*((f"say {'ab' * (i % 5)} {i}", "ba" * (1 + i % 4)) for i in range(40)))


@pytest.fixture(scope="module")
def folder(write_bytes_llama, tmp_path_factory):
    """A Hugging Face folder with a random Llama for bytes."""
    path = write_bytes_llama(tmp_path_factory.mktemp("model") / "llama")
    weights = load_file(path / "model.safetensors")  # larger, so that it has something to learn
    save_file({name: 6 * leaf for name, leaf in weights.items()}, path / "model.safetensors")
    return path


@pytest.fixture(scope="module")
def run(folder, make_config, tmp_path_factory):
    """A warm-up: adapters of that model, trained for ten steps, of which three are kept."""
    workdir = tmp_path_factory.mktemp("warm") / "w"
    config = make_config(
        **{
            "model.init_from": str(folder),
            "tokenizer": "bytes",
            "model.lora.rank": ADAPTERS.rank,
            "model.lora.alpha": ADAPTERS.alpha,
            "model.lora.targets": ADAPTERS.targets,
            "training.learning_rate": 1e-2,
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zsg_jax.report.page._draw", lambda *given: [])
        patch.setattr("zsg_jax.workflows.study_orders.explainer", lambda *given: lambda *made: None)
        study.run(config, workdir, command="test")
    return workdir / "runs" / RUN


def tokens_of(text):
    (asked, answer) = (turn[1] for turn in json.loads(text))
    ids = [256, *f"User: {asked}".encode(), *b"\nAssistant: "]
    learned = [0] * len(ids) + [1] * (len(answer) + 1)
    return np.array([*ids, *answer.encode(), 257]), np.array(learned)


def restored(run, step):
    """Adapters and Adam's moments of a checkpoint, by orbax alone."""
    state = ocp.load(run / "checkpoints" / f"{step:08d}" / "state")
    names, _ = jax.tree_util.tree_flatten_with_path(state["opt_state"])
    moments = {"mu": {}, "nu": {}}
    for path, leaf in names:
        keys = [str(getattr(one, "key", getattr(one, "idx", one))) for one in path]
        for kind in moments:
            if kind in keys:
                moments[kind]["/".join(keys[keys.index(kind) + 1 :])] = np.asarray(leaf)
    return state["params"], moments["mu"], moments["nu"]


@cache
def gradient_of_one(folder):
    """The gradient of an example's loss as it is defined, alone and without padding."""
    model = huggingface.read_config(folder)
    base, (graphdef, _) = huggingface.load(folder, model), abstract(model, lora=ADAPTERS)

    def loss(adapters, ids, learned):
        where = jnp.arange(len(ids))[None], jnp.ones((1, len(ids)), jnp.int32)
        logits = apply(graphdef, join(adapters, base), ids[None], *where)[0]
        nats = -jax.nn.log_softmax(logits)[jnp.arange(len(ids) - 1), ids[1:]]
        return (nats * learned[1:]).sum() / learned[1:].sum()

    return jax.jit(jax.grad(loss))


def less(folder, run, texts, steps, dimension, adam):
    """Equation 3's vectors: each checkpoint's unit projections, times the root of its weight."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = {one["step"]: one["learning_rate"] for one in records if one["kind"] == "train"}

    grad, parts, before = gradient_of_one(folder), [], 0
    for step in steps:
        adapters, first, second = restored(run, step)
        rows = []
        for text in texts:
            found = flatten_dict(grad(adapters, *tokens_of(text)), sep="/")
            row = []
            for name in sorted(found):
                one = np.asarray(found[name], np.float64)
                if adam:
                    m = (0.9 * first[name] + 0.1 * one) / (1 - 0.9 ** (step + 1))
                    v = (0.95 * second[name] + 0.05 * one**2) / (1 - 0.95 ** (step + 1))
                    one = m / (np.sqrt(v) + 1e-5)
                row.append(one.ravel())
            rows.append(np.concatenate(row))
        rows = np.array(rows)
        every = np.concatenate([signs(5, dimension, i) for i in range(-(-rows.shape[1] // UNIT))])
        rows = rows @ every[: rows.shape[1]]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        parts.append((rows, np.mean([rates[at] for at in range(before + 1, step + 1)])))
        before = step
    total = sum(rate for _, rate in parts)
    return np.concatenate([np.sqrt(rate / total) * rows for rows, rate in parts], axis=1)


@pytest.mark.parametrize(
    ("named", "steps"), [("", STEPS), ("@8", (8,)), ("@10,4", (4, 10))], ids=str
)
def test_a_warm_up_gives_what_less_does(folder, run, named, steps):
    encoder = open_encoder(f"gradients:{run}{named},dimension=96,seed=5", folder)
    targets, some = of_targets(encoder), [TEXTS[i] for i in (10, 11, 30, 31)]  # of two lengths
    assert encoder.dimension == targets.dimension == 96 * len(steps)
    for one, adam in ((encoder, True), (targets, False)):
        found = one.encode(some)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
        expected = less(folder, run, some, steps, 96, adam)
        assert np.sum(found * expected, axis=1).min() > 0.99999
        np.testing.assert_allclose(found, expected, atol=3e-4)
    assert encoder.name.startswith(f"gradients:{RUN}@{','.join(map(str, steps))},dimension=96,")
    assert "train=adam" in encoder.name
    assert "train=plain" in targets.name


def test_sides_differ_only_where_an_optimizer_s_state_is_kept(folder, run):
    adam = open_encoder(f"gradients:{run},dimension=32", folder)
    plain = open_encoder(f"gradients:{run},dimension=32,train=plain", folder)
    alone = open_encoder(f"gradients:{folder},dimension=32", folder)
    assert of_targets(plain) is plain
    assert of_targets(alone) is alone
    assert "train=plain" in alone.name
    assert of_targets(adam).fingerprint == plain.fingerprint != adam.fingerprint
    assert (of_targets(adam).encode(TEXTS[:5]) == plain.encode(TEXTS[:5])).all()
    assert (adam.encode(TEXTS[:5]) != plain.encode(TEXTS[:5])).any()


def test_the_fingerprint_follows_what_decides_an_embedding(folder, run):
    changes = ("", "@8", "@8,10", ",seed=1", ",length=40", ",weights=*/q/*", ",truncation=head")
    names = [f"gradients:{run}{change},dimension=8" for change in changes]
    names += [f"gradients:{run},dimension=16", f"gradients:{folder},dimension=8"]
    seen = {open_encoder(name, folder).fingerprint for name in names}
    assert len(seen) == len(names)
    again = f"gradients:{run}@10,8,4,dimension=8,seed=0,train=adam"
    assert open_encoder(again, folder).fingerprint in seen


def test_a_conversation_has_the_same_bits_in_any_company_and_in_any_shard(folder, run, tmp_path):
    encoder, rng = open_encoder(f"gradients:{run},dimension=64", folder), np.random.default_rng(0)
    finished = []
    found = encoder.encode(TEXTS, finished.append)
    assert sum(finished) == len(TEXTS)
    for _ in range(2):
        some = rng.permutation(len(TEXTS))[: rng.integers(1, len(TEXTS))]
        assert (encoder.encode([TEXTS[i] for i in some]) == found[some]).all()
    kept = embed(TEXTS, encoder, tmp_path, shard_rows=11)
    assert (np.asarray(kept[:]) == found).all()


def test_rows_are_arranged_in_it_and_a_cache_keeps_the_sides_apart(run, tmp_path):
    train = [{"prompt": f"say {i}", "completion": "ab" * (i % 3) + "c"} for i in range(12)]
    test = [{"prompt": "say 7", "completion": "abc"}, {"prompt": "say 2", "completion": "ababc"}]
    name = f"gradients:{run},dimension=128"
    found = zsg_jax.arrange_data(train, test, encoder=name, method="min-nft")
    for _ in range(2):
        again = zsg_jax.arrange_data(
            train, test, encoder=name, method="min-nft", cache=tmp_path / "cache"
        )
        assert (again.order == found.order).all()
        np.testing.assert_array_equal(again.distance, found.distance)
    assert len(list((tmp_path / "cache" / "embeddings").iterdir())) == 2


def test_a_run_without_adapters_is_read_by_its_weights(finished, tmp_path):
    run = finished / "runs" / RUN
    encoder = open_encoder(f"gradients:{run},dimension=32,weights=*/q/kernel", tmp_path)
    assert encoder.count == 32 * 32
    assert encoder.encode(TEXTS[:3]).shape == (3, 64)
    every = open_encoder(f"gradients:{run}@10,dimension=32", tmp_path)
    assert every.count > 5 * encoder.count


@pytest.mark.parametrize(
    ("name", "texts", "message"),
    [
        ("{folder},train=adam", [], "a folder keeps no optimizer's state; give a run"),
        ("{folder}@4,8", [], "is no run, which alone has steps"),
        ("{run}@4,9", [], "no whole checkpoint of step 9; kept are 4, 8, 10"),
        ("{run},weights=*/kernel", [], "weights=.* is the name of no parameter .*/lora_a"),
        ("{folder},length=20", TEXTS[:1], "'say  0.*' has no answer token within 20 tokens"),
        (
            "{folder}",
            [conversations("prompt")(Instance("", "", (Turn("user", "say"),), ()))],
            "has no answer token .* examples with answers",
        ),
        (
            "{folder}",
            [
                conversations("answer")(
                    Instance("", "", (Turn("user", "a"), Turn("assistant", "b")), ())
                )
            ],
            "has no answer",
        ),
    ],
)
def test_what_has_no_gradient_is_refused(folder, run, name, texts, message):
    def embedded():
        return open_encoder(f"gradients:{name.format(folder=folder, run=run)}", folder).encode(
            texts
        )

    with pytest.raises(UserError, match=message) as caught:
        embedded()
    assert "\n" not in str(caught.value)


def test_rates_that_are_not_the_run_s_are_refused(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "w")
    log = workdir / "runs" / RUN / "metrics.jsonl"
    log.write_text(log.read_text().replace('"learning_rate": ', '"learning_rate": 1', 1))
    with pytest.raises(UserError, match=r"metrics\.jsonl: is not what the run finished with"):
        open_encoder(f"gradients:{log.parent},dimension=64", tmp_path)
