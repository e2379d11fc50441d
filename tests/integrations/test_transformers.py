"""Trainers of transformers and TRL on small random weights, in an arrangement's order."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

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
    TrainerCallback,
    TrainingArguments,
)

import zsg_jax
from zsg_jax.integrations.trl import ArrangedSampler, OrderCallback
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


def sft(
    folder,
    ordered,
    kind=trl.SFTTrainer,
    trained_on=None,
    network=None,
    evaluated_on=None,
    **settings,
):
    check = OrderCallback(ordered["id"])
    given = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2} | settings
    given = {"num_train_epochs": 2, "train_sampling_strategy": "sequential"} | given
    args = trl.SFTConfig(
        output_dir=str(folder), report_to=[], use_cpu=True, logging_steps=1, **given
    )
    trainer = kind(
        network or model(),
        args,
        train_dataset=trained_on or ordered,
        eval_dataset=evaluated_on,
        processing_class=tokenizer(),
        callbacks=[check],
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


def test_rows_that_every_epoch_leaves_out_are_not_in_the_digest(arranged, tmp_path):
    found, rows = arranged
    trainer, check = sft(tmp_path, found.select(rows), dataloader_drop_last=True)
    trainer.train()
    assert check.order_digest == digest([f"r{i}" for i in found.order[:12]] * 2)
    assert check.examples == 24


def test_training_that_goes_on_is_compared_from_where_it_stopped(arranged, tmp_path):
    found, rows = arranged
    ordered = found.select(rows)
    settings = {"save_strategy": "steps", "save_steps": 1}
    sft(tmp_path, ordered, max_steps=3, **settings)[0].train()
    trainer, check = sft(tmp_path, ordered, max_steps=6, **settings)
    trainer.train(resume_from_checkpoint=True)
    assert check.order_digest == digest([f"r{i}" for i in found.order.tolist() * 2][:21])
    assert check.examples == 21


@pytest.mark.parametrize("strategy", ["sequential", "random"])
def test_a_batch_size_that_the_trainer_finds_is_the_one_compared(arranged, tmp_path, strategy):
    found, rows = arranged
    network = model()

    def too_large(_, given):
        if len(given[0]) > 2:
            raise RuntimeError("CUDA out of memory.")  # the words that it goes by

    network.model.embed_tokens.register_forward_pre_hook(too_large)
    sizes = {"per_device_train_batch_size": 4, "auto_find_batch_size": True}
    order = {"num_train_epochs": 1, "train_sampling_strategy": strategy}
    trainer, check = sft(tmp_path, found.select(rows), network=network, **sizes, **order)
    if strategy == "random":
        with pytest.raises(UserError, match="the model met other tokens"):
            trainer.train()
        return
    trainer.train()
    assert check.order_digest == digest([f"r{i}" for i in found.order])


@pytest.mark.parametrize("logged", ["steps", "no"])
def test_going_on_otherwise_than_before_is_told(arranged, tmp_path, logged):
    found, rows = arranged
    ordered = found.select(rows)
    settings = {"save_strategy": "steps", "save_steps": 1, "logging_strategy": logged}
    sft(tmp_path, ordered, max_steps=2, **settings)[0].train()
    # Steps of 2 rows, by which the third would be rows 5 and 6: they have been met.
    other = {"gradient_accumulation_steps": 1, "max_steps": 4, **settings}
    trainer, _ = sft(tmp_path, ordered, **other)
    with pytest.raises(UserError, match="up to step 2 the checkpoint has consumed other examples"):
        trainer.train(resume_from_checkpoint=True)
    trainer, _ = sft(tmp_path, ordered, max_steps=3, ignore_data_skip=True, **settings)
    with pytest.raises(UserError, match="ignore_data_skip=True would begin the epoch again"):
        trainer.train(resume_from_checkpoint=True)
    # What is logged before the first step of those that are left tells of those before.
    looks = {"max_steps": 3, "eval_on_start": True, "eval_strategy": "steps", "eval_steps": 9}
    trainer, _ = sft(tmp_path, ordered, evaluated_on=ordered, **settings, **looks)
    trainer.train(resume_from_checkpoint=True)
    at_two = [one["order_digest"] for one in trainer.state.log_history if one["step"] == 2]
    assert len(at_two) > (logged == "steps")
    assert set(at_two) == {digest(f"r{i}" for i in found.order[:8])}


def test_what_a_checkpoint_of_another_training_consumed_is_taken_on_trust(
    arranged, tmp_path, capfd
):
    found, rows = arranged
    trainer, check = sft(tmp_path, found.select(rows), max_steps=2, save_steps=1)
    trainer.remove_callback(check)
    trainer.train()
    sft(tmp_path, found.select(rows), max_steps=3)[0].train(resume_from_checkpoint=True)
    assert "of step 2 does not say which examples it has consumed" in capfd.readouterr().err


@pytest.mark.parametrize(
    "settings", [{"train_sampling_strategy": "random"}, {"packing": True, "max_length": 64}]
)
def test_another_order_is_told(arranged, tmp_path, settings):
    found, rows = arranged
    trainer, _ = sft(tmp_path, found.select(rows), **settings)
    with pytest.raises(UserError, match="OrderCallback"):
        trainer.train()


@pytest.mark.parametrize("kept", [True, False])
def test_a_dataset_that_was_not_arranged_is_told(arranged, tmp_path, capfd, kept):
    found, rows = arranged
    settings = {"remove_unused_columns": not kept, "num_train_epochs": 1}
    trainer, check = sft(tmp_path, found.select(rows), trained_on=rows, **settings)
    if kept:
        with pytest.raises(UserError, match=r"row \d+ of the trainer's dataset is 'r\d+'"):
            trainer.train()
    else:
        trainer.train()
        assert "taken on trust" in capfd.readouterr().err
    trainer, check = sft(tmp_path, found.select(rows), **settings)
    trainer.train()
    assert check.order_digest == digest(f"r{i}" for i in found.order)
    assert ("taken on trust" in capfd.readouterr().err) != kept


def test_a_trainer_of_preferences_is_told_that_it_is_not_looked_at(arranged, tmp_path):
    rows = [
        {"id": row["id"], "prompt": row["prompt"], "chosen": " one", "rejected": " two"}
        for row in arranged[1]
    ]
    model().save_pretrained(tmp_path)
    trainer = trl.DPOTrainer(
        str(tmp_path),  # from which it takes what it compares with
        args=trl.DPOConfig(output_dir=str(tmp_path), report_to=[], use_cpu=True, max_steps=1),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
        callbacks=[OrderCallback([row["id"] for row in rows])],
    )
    with pytest.raises(UserError, match=r"have no input_ids .* not of preferences, as DPOTrainer"):
        trainer.train()


def test_one_process_of_several_gpus_is_told_how_to_start_more():
    check = OrderCallback(["a"])
    with pytest.raises(UserError, match=r"over 4 GPUs.*torchrun"):
        check.on_train_begin(SimpleNamespace(n_gpu=4), None, None)


def test_what_a_failed_training_left_behind_disturbs_no_other(arranged, tmp_path):
    found, rows = arranged
    ordered, network = found.select(rows), model()
    wrong, _ = sft(tmp_path, ordered, network=network, train_sampling_strategy="random")
    with pytest.raises(UserError, match="OrderCallback"):
        wrong.train()
    # Stopped by something else, as Ctrl-C.
    stopped, _ = sft(tmp_path, ordered, network=network)
    stopped.add_callback(type("Stop", (TrainerCallback,), {"on_step_end": stop})())
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    trainer, check = sft(tmp_path, ordered, network=network, num_train_epochs=1)
    for _ in range(2):  # each training is a course of its own
        trainer.train()
        assert check.order_digest == digest(f"r{i}" for i in found.order)
        assert check.examples == 13


def stop(*arguments, **named):
    raise KeyboardInterrupt


@pytest.mark.parametrize("strategy", ["sequential", "random"])
def test_a_loss_that_goes_past_the_model_is_told(arranged, tmp_path, strategy):
    found, rows = arranged

    class Own(trl.SFTTrainer):
        def compute_loss(self, model, inputs, *arguments, **named):
            hidden = model.model(input_ids=inputs["input_ids"]).last_hidden_state
            return model.lm_head(hidden).square().mean()

    trainer, _ = sft(tmp_path, found.select(rows), Own, train_sampling_strategy=strategy)
    with pytest.raises(UserError, match=r"up to step 1 the model .* met 0 batches, not 2; "):
        trainer.train()


def test_tokens_of_ones_own_are_compared(arranged, tmp_path):
    found, rows = arranged
    lines = [f"{row['prompt']} {row['completion']}" for row in rows]
    encoded = [{"input_ids": one, "labels": one} for one in tokenizer()(lines)["input_ids"]]
    ordered = [encoded[i] for i in found.order]
    ids = [f"r{i}" for i in found.order]
    args = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        report_to=[],
        use_cpu=True,
        train_sampling_strategy="sequential",
    )
    for given in (ordered, encoded):
        check = OrderCallback(ids, [one["input_ids"] for one in ordered])
        trainer = Trainer(model(), args, train_dataset=given, callbacks=[check])
        if given is ordered:
            trainer.train()
            assert check.order_digest == digest(ids)
        else:
            with pytest.raises(UserError, match=r"batch \d+ was to begin with example"):
                trainer.train()
    with pytest.raises(UserError, match="13 ids, but 12 rows of tokens"):
        OrderCallback(ids, [one["input_ids"] for one in ordered[1:]])


_OF_SEVERAL = """
import sys
from datasets import Dataset
from test_transformers import WORDS, sft
from zsg_jax.runtime.errors import UserError
prompts = [f"{WORDS[i % 10]} {WORDS[i // 10]}" for i in range(13)]
rows = [{"id": f"r{i}", "prompt": one, "completion": "blue"} for i, one in enumerate(prompts)]
for name, settings in (("drop", {"dataloader_drop_last": True}), ("fill", {})):
    trainer, check = sft(f"{sys.argv[1]}/{name}", Dataset.from_list(rows), **settings)
    try:
        trainer.train()
        told = check.order_digest
    except UserError as error:
        told = error
    if trainer.is_world_process_zero():
        print(f"{name}: {told}")
"""


@pytest.mark.slow
def test_several_processes_share_each_batch_and_fill_none(tmp_path, free_port):
    (script := tmp_path / "script.py").write_text(_OF_SEVERAL)
    flags = ["--nproc_per_node=2", f"--master_port={free_port()}", str(script), str(tmp_path)]
    here = Path(__file__).parent
    paths = f"{here}:{here.parents[1]}"
    told = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *flags],
        env=os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    assert f"drop: {digest([f'r{i}' for i in range(12)] * 2)}" in told
    assert "fill: OrderCallback: 13 rows are no multiple of 4, the batches of 2 processes" in told


@pytest.mark.parametrize("count", [13, 5])
def test_a_sampler_feeds_the_order_of_a_dataset_as_it_is(arranged, tmp_path, count):
    found, rows = arranged
    order = found.order[:count].copy()
    tokens = tokenizer()
    lines = [f"{row['prompt']} {row['completion']}" for row in rows]
    encoded = [{"input_ids": one, "labels": one} for one in tokens(lines)["input_ids"]]

    sampler = ArrangedSampler(order)
    order[:] = 0  # it has its own

    class InOrder(Trainer):
        def _get_train_sampler(self, *arguments):
            return sampler

    met = []
    network = model()
    network.register_forward_pre_hook(
        lambda module, args, given: met.append(given["input_ids"].tolist()), with_kwargs=True
    )
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=1, num_train_epochs=1, report_to=[], use_cpu=True
    )
    ids = [f"r{i}" for i in found.order]
    check = OrderCallback(ids, [encoded[i]["input_ids"] for i in found.order])
    InOrder(network, args, train_dataset=encoded, callbacks=[check]).train()
    assert [one[0] for one in met] == [encoded[i]["input_ids"] for i in found.order[:count]]
    assert check.order_digest == digest(ids[:count])


@pytest.mark.parametrize(
    "order", [[0.5, 1.7], [[0, 1]], [[0], [0, 1]], [-1, 0], [True, False], ["0"], None]
)
def test_what_is_no_order_is_refused(order):
    with pytest.raises(UserError, match="is no order"):
        ArrangedSampler(order)
