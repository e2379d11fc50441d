"""Tasks of Natural Instructions become rows, one task in memory at a time.

The list, `…/splits/NAME/train_tasks.txt`, names one task a line. The tasks are `TASK.json` in
`tasks/` two folders above the list, or beside it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zsg_jax.data.formats.jsonl import Row
from zsg_jax.data.formats.natural_instructions.options import WHOLE, Options
from zsg_jax.data.formats.natural_instructions.prompt import Encode, Fitted, fit, parts
from zsg_jax.data.formats.natural_instructions.tasks import read_task, task_folder, task_names
from zsg_jax.data.sampling import draw, sample
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.progress import count, say, track

CHUNK = 256


def rows(
    path: Path, options: Options = WHOLE, side: str = "train", encode: Encode | None = None
) -> Iterator[Row]:
    """The instances of the tasks that `path` lists, as JSON rows, in the order of list and files.

    A row has `id`, `task`, `messages` (the prompt and one output), `references` (all outputs),
    `input`, `output`, `categories`, `domains`, `input_language` and `output_language`. An instance
    that is not taken is not looked into.

    Args:
        path: the list.
        options: what a prompt holds and which instances are taken; all of them by default.
        side: "train", of whose tasks instances are drawn, or "test", of whose tasks the first are
            taken (arXiv 2406.11721: balanced by label, for the official files).
        encode: as `Tokenizer.encode`; needed where `options.max_source` is not 0.

    Raises:
        UserError: for a list that is missing or names no task or one twice, and for a task whose
            file is missing, damaged, or without definition or instances.
    """
    check(
        not options.max_source or encode is not None,
        f"data.natural_instructions.max_source={options.max_source} counts tokens, but there is no "
        "tokenizer yet that could; give a tokenizer's folder, or max_source=0 for no limit",
    )
    names = task_names(path)
    folder = task_folder(path)
    taken = shortened = cut = 0
    for name in track(names, f"reading {path.name}", len(names)):
        file = folder / f"{name}.json"
        task = read_task(file, name, path, options.most)
        numbers = _numbers(name, task["Instances"], options, side)
        for start in range(0, len(numbers), CHUNK):
            chunk = {number: task["Instances"][number - 1] for number in numbers[start:][:CHUNK]}
            prompts = _prompts(name, task, chunk, options, encode)
            for number, instance in chunk.items():
                if number not in prompts:
                    yield Row(file, number, b"", unit="instance", refusal=_refusal(instance))
                    continue
                row = _row(name, task, instance, number, prompts[number].text, options)
                yield Row(file, number, json.dumps(row).encode(), unit="instance")
            taken += len(chunk)
            shortened += sum(prompt.examples_left_out > 0 for prompt in prompts.values())
            cut += sum(prompt.cut for prompt in prompts.values())
    if shortened or cut:
        say(
            f"{path.name}: of {count(taken, 'prompt')} {shortened:,} lost examples and {cut:,} "
            f"were cut, to stay within max_source={options.max_source} tokens"
        )


def _numbers(name: str, instances: Sequence[Any], options: Options, side: str) -> Sequence[int]:
    """The numbers, from 1, of the instances to take."""
    most = options.train_per_task if side == "train" else options.test_per_task
    if side != "train" or not most:
        return range(1, (most or len(instances)) + 1)[: len(instances)]
    ids = [_identity(name, one, number) for number, one in enumerate(instances, start=1)]
    return [place + 1 for place in sample(ids, most, options.seed, "instance", name)]


def _prompts(
    name: str,
    task: Mapping[str, Any],
    instances: Mapping[int, Any],
    options: Options,
    encode: Encode | None,
) -> dict[int, Fitted]:
    """The prompts of the instances that are not refused, by their numbers."""
    whole = {
        number: parts(name, task, one, options.form(name, _identity(name, one, number)))
        for number, one in instances.items()
        if not _refusal(one)
    }
    if not options.max_source or encode is None:
        return {number: Fitted(prompt.text) for number, prompt in whole.items()}
    return dict(zip(whole, fit(list(whole.values()), options.max_source, encode), strict=True))


def _identity(name: str, instance: Any, number: int) -> str:
    default = f"{name}:{number}"
    return str(instance.get("id", default)) if isinstance(instance, dict) else default


def _refusal(instance: Any) -> str:
    """Why an instance gives no row; what a row must hold besides is checked as any row's."""
    if not isinstance(instance, dict):
        return "is no JSON object"
    if not isinstance(instance.get("input"), str):
        return 'has no "input"'
    outputs = _outputs(instance)
    if not isinstance(outputs, list) or not any(outputs):
        return 'has no "output"'
    return ""


def _outputs(instance: Mapping[str, Any]) -> Any:
    outputs = instance.get("output")
    return [outputs] if isinstance(outputs, str) else outputs


def _row(
    name: str,
    task: Mapping[str, Any],
    instance: Mapping[str, Any],
    number: int,
    prompt: str,
    options: Options,
) -> dict[str, Any]:
    outputs = _outputs(instance)
    answer = 0
    if options.reference == "drawn":
        identity = _identity(name, instance, number)
        answer = draw(options.seed, "reference", name, identity) % len(outputs)
    row: dict[str, Any] = {"id": instance.get("id", f"{name}:{number}"), "task": name}
    row["messages"] = [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": outputs[answer]},
    ]
    row["references"] = outputs
    row["input"] = instance["input"]
    row["output"] = outputs
    for key in ("Categories", "Domains", "Input_language", "Output_language"):
        value = task.get(key) or []
        row[key.lower()] = [value] if isinstance(value, str) else value
    return row
