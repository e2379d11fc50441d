"""Trainers of transformers and TRL on small random weights, in an arrangement's order."""

import hashlib

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra parity")
pytest.importorskip("trl", reason="needs the extra trl")

import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

import zsg_jax
from zsg_jax.integrations.transformers import ArrangedSampler, OrderCallback
from zsg_jax.runtime.errors import UserError

pytestmark = pytest.mark.references
WORDS = ["red", "green", "blue", "one", "two", "three", "four", "five", "six", "seven"]


@pytest.fixture(scope="module")
def arranged():
    generator = np.random.default_rng(0)
    rows = [
        {"id": f"r{i}", "prompt": " ".join(generator.choice(WORDS, 4)), "completion": WORDS[i % 10]}
        for i in range(13)
    ]
    found = zsg_jax.arrange_data(rows, rows[:3], method="tmta-min")
    return found, Dataset.from_list(rows)


def tokenizer():
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "<eos>", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>"
    )


def model():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=13, num_attention_heads=2, num_key_value_heads=2, **shape)
    )


def digest(ids):
    return hashlib.sha256("".join(f"{one}\n" for one in ids).encode()).hexdigest()


def sft(folder, ordered, **settings):
    check = OrderCallback(ordered["id"])
    given = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2} | settings
    given = {"num_train_epochs": 2, "train_sampling_strategy": "sequential"} | given
    args = trl.SFTConfig(
        output_dir=str(folder), report_to=[], use_cpu=True, logging_steps=1, **given
    )
    trainer = trl.SFTTrainer(
        model(), args, train_dataset=ordered, processing_class=tokenizer(), callbacks=[check]
    )
    return trainer, check


def test_trl_consumes_the_order_and_says_its_digest(arranged, tmp_path):
    found, rows = arranged
    trainer, check = sft(tmp_path, found.select(rows))
    trainer.train()
    ids = [f"r{i}" for i in found.order]
    assert check.order_digest == digest(ids * 2)
    logged = [one["order_digest"] for one in trainer.state.log_history if "order_digest" in one]
    assert logged[0] == digest(ids[:4])


def test_training_that_goes_on_is_compared_from_where_it_stopped(arranged, tmp_path):
    found, rows = arranged
    ordered = found.select(rows)
    settings = {"save_strategy": "steps", "save_steps": 1}
    sft(tmp_path, ordered, max_steps=3, **settings)[0].train()
    trainer, check = sft(tmp_path, ordered, max_steps=6, **settings)
    trainer.train(resume_from_checkpoint=True)
    assert check.order_digest == digest([f"r{i}" for i in found.order.tolist() * 2][:21])
    assert check.examples == 21


@pytest.mark.parametrize(
    "settings", [{"train_sampling_strategy": "random"}, {"packing": True, "max_length": 64}]
)
def test_another_order_is_told(arranged, tmp_path, settings):
    found, rows = arranged
    trainer, _ = sft(tmp_path, found.select(rows), **settings)
    with pytest.raises(UserError, match="OrderCallback"):
        trainer.train()


def test_a_sampler_feeds_the_order_of_a_dataset_as_it_is(arranged, tmp_path):
    found, rows = arranged
    tokens = tokenizer()
    lines = [f"{row['prompt']} {row['completion']}" for row in rows]
    encoded = [{"input_ids": one, "labels": one} for one in tokens(lines)["input_ids"]]

    class InOrder(Trainer):
        def _get_train_sampler(self, *arguments):
            return ArrangedSampler(found.order)

    met = []
    network = model()
    network.register_forward_pre_hook(
        lambda module, args, given: met.append(given["input_ids"].tolist()), with_kwargs=True
    )
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=1, num_train_epochs=1, report_to=[], use_cpu=True
    )
    InOrder(network, args, train_dataset=encoded).train()
    assert [one[0] for one in met] == [encoded[i]["input_ids"] for i in found.order]
