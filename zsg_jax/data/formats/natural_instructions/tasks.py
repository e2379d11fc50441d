"""A list of tasks, and the file of each: found, read and checked."""

import os
from pathlib import Path
from typing import Any

from zsg_jax.data.formats.jsonl import json_file
from zsg_jax.data.formats.natural_instructions.options import PromptForm
from zsg_jax.runtime.errors import UserError, check


def task_names(path: Path) -> list[str]:
    """The tasks that a list names, one a line.

    Raises:
        UserError: for a list that is missing or no text, or names no task or one twice.
    """
    try:
        listed = path.read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: is not UTF-8 (byte {error.start}); give a list of tasks"
        ) from None
    names: list[str] = []
    for line, name in enumerate(map(str.strip, listed), start=1):
        check(
            not name or (Path(name).name == name and "\\" not in name),
            f"{path}:{line}: {name!r} is no task's name but a path; name the task alone",
        )
        if name in names:
            raise UserError(f"{path}:{line}: task {name!r} was already named; leave the line out")
        if name:
            names.append(name)
    if not names:
        raise UserError(f"{path}: names no task; give a list with one task a line")
    return names


def task_folder(path: Path) -> Path:
    """The folder of the tasks: `tasks` two folders above the list, or beside it.

    Raises:
        UserError: if there is neither.
    """
    beside = Path(os.path.abspath(path)).parent
    folders = (beside.parent.parent / "tasks", beside / "tasks")
    for folder in folders:
        if folder.is_dir():
            return folder
    raise UserError(
        f"{path}: lists tasks of Natural Instructions, but there is neither {folders[0]} nor "
        f"{folders[1]}; leave the list where it came from, and name other files not .txt"
    )


def read_task(file: Path, name: str, path: Path, form: PromptForm) -> dict[str, Any]:
    """One task's file, checked as far as prompts of `form` need it; instances are not.

    Raises:
        UserError: naming the file, or the list `path` where there is no file, and what is wrong.
    """
    check(file.exists(), f"{path}: names task {name!r}, but there is no {file}")
    task = json_file(file, "fetch the task again")
    if not isinstance(task, dict):
        raise UserError(f"{file}: is no task of Natural Instructions: it holds no JSON object")
    definition = task.get("Definition")
    first = definition[0] if isinstance(definition, list) and definition else definition
    if not isinstance(first, str) or not first.strip():
        raise UserError(f'{file}: "Definition" must be a text or a list of texts')
    for key, number in (("Positive Examples", form.positive), ("Negative Examples", form.negative)):
        _check_examples(file, key, task, number, form.explanation)
    if not isinstance(task.get("Instances"), list):
        raise UserError(f'{file}: "Instances" must be a list')
    return task


def _check_examples(
    file: Path, key: str, task: dict[str, Any], number: int, explanation: bool
) -> None:
    examples = (number and task.get(key)) or []
    if not isinstance(examples, list):
        raise UserError(f'{file}: "{key}" must be a list')
    for index, example in enumerate(examples[:number]):
        sound = isinstance(example, dict) and all(
            isinstance(example.get(part), str) for part in ("input", "output")
        )
        if not sound:
            raise UserError(f'{file}: "{key}[{index}]" lacks a text "input" or "output"')
        if explanation and not isinstance(example.get("explanation", ""), str | None):
            raise UserError(f'{file}: "{key}[{index}].explanation" is no text')
