"""Tasks of Natural Instructions become records, one task in memory at a time.

The list, `…/splits/NAME/train_tasks.txt`, names one task a line. The tasks are `TASK.json` in
`tasks/` two folders above the list, or beside it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zsg_jax.data.formats.jsonl import Record
from zsg_jax.data.formats.natural_instructions.options import WHOLE, Options
from zsg_jax.data.formats.natural_instructions.prompt import Fitted, fit, parts
from zsg_jax.data.formats.natural_instructions.tasks import read_task, task_folder, task_names
from zsg_jax.data.sampling import draw, sample
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.progress import count, say, track
from zsg_jax.runtime.settings import setting

CHUNK = 256  # instances whose prompts are encoded together
DEMONSTRATION = "demonstration"
_ABOUT_TASK = ("Categories", "Domains", "Input_language", "Output_language")


def records(
    path: Path, options: Options = WHOLE, side: str = "train", tokenizer: Tokenizer | None = None
) -> Iterator[Record]:
    """The instances of the tasks that `path` lists, as JSON, in the order of list and files.

    A record has `id`, `task`, `messages` (the prompt and one output), `references` (all outputs,
    stripped as that one is), `input`, `output`, `categories`, `domains`, `input_language` and
    `output_language`, and `demonstration`, the output of the task's first positive example, ""
    without one. Instances that `options` leave out are not checked.

    Args:
        path: the list.
        options: what a prompt holds and which instances are used; all of them by default.
        side: "train", of whose tasks instances are drawn, or "test", of whose tasks the first are
            used (arXiv 2406.11721: balanced by label, for the official files).
        tokenizer: needed where `options.max_source` is not 0.

    Raises:
        UserError: for a list that is missing or names no task or one twice, and for a task whose
            file is missing, damaged, or without definition or instances.
    """
    check(
        not options.max_source or tokenizer is not None,
        f"{setting('data.natural_instructions.max_source', options.max_source)} counts tokens, but "
        "there is no tokenizer yet that could; give a tokenizer's folder, or max_source=0 for no "
        "limit",
    )
    names = task_names(path)
    folder = task_folder(path)
    total = shortened = cut = 0
    for name in track(names, f"reading {path.name}", len(names)):
        file = folder / f"{name}.json"
        task = read_task(file, name, path, options.largest_form)
        numbers = _numbers(name, task["Instances"], options, side)
        for start in range(0, len(numbers), CHUNK):
            chunk = {number: task["Instances"][number - 1] for number in numbers[start:][:CHUNK]}
            prompts = _prompts(name, task, chunk, options, tokenizer)
            for number, instance in chunk.items():
                record = Record(file, number, b"", unit="instance")
                if number not in prompts:
                    yield record._replace(refusal=_refusal(instance))
                    continue
                fields = _fields(name, task, instance, number, prompts[number].text, options)
                yield record._replace(raw=json.dumps(fields).encode())
            total += len(chunk)
            shortened += sum(prompt.examples_left_out > 0 for prompt in prompts.values())
            cut += sum(prompt.cut for prompt in prompts.values())
    if shortened or cut:
        say(
            f"{path.name}: of {count(total, 'prompt')} {shortened:,} lost examples and {cut:,} "
            f"were cut, to stay within max_source={options.max_source} tokens"
        )


def _numbers(name: str, instances: Sequence[Any], options: Options, side: str) -> Sequence[int]:
    """The numbers, from 1, of the instances that are used."""
    most = options.train_per_task if side == "train" else options.test_per_task
    if side != "train" or not most:
        return range(1, (most or len(instances)) + 1)[: len(instances)]
    ids = [_id(name, one, number) for number, one in enumerate(instances, start=1)]
    return [index + 1 for index in sample(ids, most, options.seed, "instance", name)]


def _prompts(
    name: str,
    task: Mapping[str, Any],
    instances: Mapping[int, Any],
    options: Options,
    tokenizer: Tokenizer | None,
) -> dict[int, Fitted]:
    """The prompts of the instances that are not refused, by their numbers."""
    whole = {
        number: parts(name, task, one, options.form(name, _id(name, one, number)))
        for number, one in instances.items()
        if not _refusal(one)
    }
    if not options.max_source or tokenizer is None:
        return {number: Fitted(prompt.text) for number, prompt in whole.items()}
    return dict(zip(whole, fit(list(whole.values()), options.max_source, tokenizer), strict=True))


def _id(name: str, instance: Any, number: int) -> str:
    default = f"{name}:{number}"
    return str(instance.get("id", default)) if isinstance(instance, dict) else default


def _refusal(instance: Any) -> str:
    """Why an instance gives no record; whatever else one must hold is checked as for any source."""
    if not isinstance(instance, dict):
        return "is no JSON object"
    if not isinstance(instance.get("input"), str):
        return 'has no "input"'
    outputs = _as_list(instance.get("output"))
    if not isinstance(outputs, list) or not any(outputs):
        return 'has no "output"'
    return ""


def _fields(
    name: str,
    task: Mapping[str, Any],
    instance: Mapping[str, Any],
    number: int,
    prompt: str,
    options: Options,
) -> dict[str, Any]:
    given = _as_list(instance["output"])
    outputs = [one.strip() if isinstance(one, str) else one for one in given]
    chosen = 0
    if options.reference == "drawn":
        identity = _id(name, instance, number)
        chosen = draw(options.seed, "reference", name, identity) % len(outputs)
    return {
        "id": instance.get("id", f"{name}:{number}"),
        "task": name,
        "messages": [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": outputs[chosen]},
        ],
        "references": outputs,
        "input": instance["input"],
        "output": given,
        DEMONSTRATION: _demonstration(task),
        **{key.lower(): _as_list(task.get(key) or []) for key in _ABOUT_TASK},
    }


def _demonstration(task: Mapping[str, Any]) -> str:
    examples = task.get("Positive Examples")
    first = examples[0] if isinstance(examples, list) and examples else None
    output = first.get("output") if isinstance(first, dict) else None
    return output if isinstance(output, str) else ""


def _as_list(value: Any) -> Any:
    """A text as a list of itself; anything else as it is."""
    return [value] if isinstance(value, str) else value
