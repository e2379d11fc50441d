import json
import string
from dataclasses import replace

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from zsg_jax.data.formats.natural_instructions import WHOLE, records
from zsg_jax.data.formats.natural_instructions.options import RANDOM_FORMS, PromptForm
from zsg_jax.data.formats.natural_instructions.prompt import fit, parts
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer, Tokenizer, from_folder

# The knobs of the study's code and ours.
KNOBS = {
    "add_task_name": "task_name",
    "add_task_definition": "definition",
    "num_pos_examples": "positive",
    "num_neg_examples": "negative",
    "add_explanation": "explanation",
}


def by_the_rule(name, task, instance, form, limit, inner):
    """The rule of the study's collator, written down from its description; `inner` counts."""

    def line(label, text):
        line = f"{label}: {text.strip()}"
        return line if line[-1] in string.punctuation else line + "."

    def length(text):
        return len(inner.encode(text).ids)

    definition = task["Definition"]
    definition = definition if isinstance(definition, str) else definition[0]
    head = line("Definition", definition) + "\n\n" if form.definition else ""
    end = "Now complete the following example -\n" + line("Input", instance["input"]) + "\nOutput: "
    shown = {"Positive": [], "Negative": []}
    for label, number in (("Positive", form.positive), ("Negative", form.negative)):
        for k, example in enumerate(task[f"{label} Examples"][:number], start=1):
            text = f" {label} Example {k} -\n" + line("Input", example["input"]) + "\n"
            text += line(" Output", example["output"]) + "\n"
            if form.explanation and "explanation" in example:
                text += line(" Explanation", example["explanation"]) + "\n"
            text += "\n"
            before = head + " ".join(shown["Positive"]) + " ".join(shown["Negative"])
            if length(before + text + end) > limit:
                break
            shown[label].append(text)
    source = f"{name}. " if form.task_name else ""
    source += head + "".join(shown["Positive"]) + "".join(shown["Negative"]) + end
    ids = inner.encode(source).ids
    return source if len(ids) <= limit else inner.decode(ids[:limit], skip_special_tokens=True)


def made_tokenizer(bos):
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(
        [" Positive Example Input: Output: Now complete the following"], trainer
    )
    if bos:
        inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return inner


INNERS = {bos: made_tokenizer(bos) for bos in (False, True)}
TEXT = st.text("ab é.?)\n—", max_size=9)
EXAMPLE = st.fixed_dictionaries({"input": TEXT, "output": TEXT}, optional={"explanation": TEXT})
TASK = st.fixed_dictionaries(
    {
        "Definition": st.one_of(TEXT, st.lists(TEXT, min_size=1, max_size=2)),
        "Positive Examples": st.lists(EXAMPLE, max_size=4),
        "Negative Examples": st.lists(EXAMPLE, max_size=3),
    }
)
FORM = st.builds(
    PromptForm, st.booleans(), st.booleans(), st.integers(0, 4), st.integers(0, 3), st.booleans()
) | st.sampled_from(RANDOM_FORMS)


@given(TASK, st.lists(st.tuples(TEXT, FORM), max_size=3), st.integers(1, 260), st.booleans())
def test_prompts_follow_the_rule_of_the_study(task, wanted, limit, bos):
    inner = INNERS[bos]
    made = [parts("task1_add", task, {"input": text}, form) for text, form in wanted]
    fitted = fit(made, limit, Tokenizer(inner, 0, 1))
    for one, (text, form) in zip(fitted, wanted, strict=True):
        expected = by_the_rule("task1_add", task, {"input": text}, form, limit, inner)
        assert one.text == expected
        assert one.cut == (not expected.endswith("Output: "))
        if not one.cut:
            shown = min(form.positive, len(task["Positive Examples"]))
            shown += min(form.negative, len(task["Negative Examples"]))
            assert one.examples_left_out == shown - one.text.count(" Example ")


def test_the_studys_own_prompts_come_out(assets):
    file = assets / "cases" / "ni" / "expected.jsonl"
    if not file.is_file():
        pytest.skip("no cases/ni in ZSG_JAX_ASSETS")
    tokenizer = from_folder(assets / "models" / "stories260k")
    for case in map(json.loads, file.read_text().splitlines()):
        folder = file.parent if case["task"] == "made" else assets / "data" / "superni" / "tasks"
        task = json.loads((folder / f"{case['task']}.json").read_text())
        instance = next(one for one in task["Instances"] if one["id"] == case["instance"])
        form = PromptForm(positive=2)._replace(
            **{KNOBS[key]: one for key, one in case["knobs"].items()}
        )
        made = parts(case["task"], task, instance, form)
        assert fit([made], case["max_source"], tokenizer)[0].text == case["prompt"]


@pytest.mark.parametrize("schema", ["fixed", "random"])
def test_prompts_of_real_tasks_follow_the_rule(assets, schema):
    folder = assets / "data" / "superni"
    if not folder.is_dir():
        pytest.skip("no data/superni in ZSG_JAX_ASSETS")
    options = replace(WHOLE, schema=schema, max_source=1024, train_per_task=8)
    tokenizer = from_folder(assets / "models" / "stories260k")
    inner = tokenizers.Tokenizer.from_file(str(assets / "models/stories260k/tokenizer.json"))
    listed = folder / "splits" / "default" / "train_tasks.txt"
    cut = 0
    for record in map(
        json.loads, (one.raw for one in records(listed, options, "train", tokenizer))
    ):
        task = json.loads((folder / "tasks" / f"{record['task']}.json").read_text())
        form = options.form(record["task"], record["id"])
        expected = by_the_rule(record["task"], task, record, form, 1024, inner)
        prompt, answer = (one["content"] for one in record["messages"])
        assert prompt == expected
        assert answer == record["output"][0].strip() == record["references"][0]
        cut += not prompt.endswith("Output: ")
    assert cut


def test_what_is_no_unicode_is_left_to_the_check_of_records():
    made = parts("t", {"Definition": "d"}, {"input": "a\ud800" * 9}, PromptForm(definition=False))
    assert fit([made], 3, ByteTokenizer())[0] == (made.text, 0, False)
