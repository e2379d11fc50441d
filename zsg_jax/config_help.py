"""What --help tells of a config: its values, and the comments where its keys are defined."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from zsg_jax import config_diversity, config_selection
from zsg_jax.config import default_config, flatten
from zsg_jax.runtime.errors import UserError, did_you_mean

WIDTH = 79


class Described(NamedTuple):
    """Keys that one comment describes, as "training.batch_size"; a group's own comment has none."""

    group: str
    keys: list[str]
    text: str


def described(make: Callable[[], ConfigDict]) -> list[Described]:
    """The keys that a function of assignments makes, in their order, by comment."""
    module = inspect.getmodule(make)
    assert module is not None
    source = inspect.getsource(module)
    functions = {
        node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)
    }
    return list(_of_function(functions, make.__name__, "", source.splitlines()))


def _of_function(
    functions: dict[str, ast.FunctionDef], name: str, root: str, lines: list[str]
) -> Iterator[Described]:
    """The keys that a function of a file makes, below the group `root`."""
    groups: dict[str, str] = {}  # the name of a variable → the group that it holds
    last = Described("", [], "")
    end = 0  # the line where the assignment before ends
    for node in functions[name].body:
        if not isinstance(node, ast.Assign):
            continue
        calls = node.value.func if isinstance(node.value, ast.Call) else None
        made = calls.id if isinstance(calls, ast.Name) else ""
        first, names = node.targets[0], [t.id for t in node.targets if isinstance(t, ast.Name)]
        if isinstance(first, ast.Name):
            groups[first.id] = root
            continue
        assert isinstance(first, ast.Attribute)
        assert isinstance(first.value, ast.Name)
        above = groups[first.value.id]
        key = f"{above}.{first.attr}" if above else first.attr
        comment = _comment_above(lines, node.lineno)
        if made in functions or made == "ConfigDict":
            groups |= dict.fromkeys(names, key)
            if comment:
                yield Described(key, [], comment)
            if made in functions:
                yield from _of_function(functions, made, key, lines)
        elif comment or node.lineno > end + 1 or last.group != above:
            last = Described(above, [key], comment)
            yield last
        else:
            last.keys.append(key)
        end = node.end_lineno or node.lineno


def _comment_above(lines: list[str], line: int) -> str:
    """The comment that ends right above a line, numbered from 1."""
    found: list[str] = []
    for text in reversed(lines[: line - 1]):
        if not text.strip().startswith("#"):
            break
        found.insert(0, text.strip().removeprefix("#").strip())
    return " ".join(found)


def told(
    config: ConfigDict | None,
    group: str,
    program: str,
    purpose: str,
    example: str,
    names: Sequence[str],
) -> str:
    """What a command that takes a config answers to --help, or of a group to --config.help=GROUP.

    Args:
        config: whose values are shown; None: the default study's.
        group: as `of_group` takes it; "": none was asked for.
        program: as it is called.
        purpose: what it does, a sentence or two.
        example: flags of a call.
        names: of its absl flags, in the order to show.

    Raises:
        UserError: as `of_group`.
    """
    config = default_config() if config is None else config
    if group:
        return of_group(config, group)
    lines = [f"usage: {program} --config NAME[:PRESET] [--config.KEY=VALUE …] [flags]", ""]
    lines += [textwrap.fill(purpose, WIDTH), "", "flags:"]
    for name in names:
        flag = flags.FLAGS[name]
        default = "" if flag.default in (None, "") else f" (default: {flag.default})"
        lines += [f"  --{name}", *_wrapped(f"{flag.help}{default}")]
    lines += [
        "  --config.help[=GROUP]",
        *_wrapped("What the keys of a group mean, as training; of all groups without one."),
        "",
        "keys of the config, set by --config.KEY=VALUE as --config.training.steps=100:",
        groups(config),
        "",
        f"example:\n  {program} {example}",
    ]
    return "\n".join(lines)


def groups(config: ConfigDict) -> str:
    """The keys of a config, a paragraph for each group, with the values that it has."""
    flat, values = flatten(config), dict[str, list[str]]()
    for key in (key for one in _of(config) for key in one.keys):
        group, _, name = key.rpartition(".")
        values.setdefault(group, []).append(f"{name}={_value(flat[key])}")
    paragraphs = [
        textwrap.fill(
            ", ".join(one),
            WIDTH,
            initial_indent=f"{group}: " if group else "",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for group, one in values.items()
    ]
    return "\n".join(paragraphs)


def of_group(config: ConfigDict, group: str) -> str:
    """What the keys of a group and of those below it mean; "all" for every key.

    Raises:
        UserError: the config has no such group or key.
    """
    values = flatten(config)
    known = _of(config)
    wanted = [
        one
        for one in known
        if group == "all" or any(_below(name, group) for name in [*one.keys, one.group])
    ]
    if not wanted:
        names = sorted({one.group for one in known if one.group} | values.keys())
        raise UserError(
            f"--config.help={group}: no such group or key{did_you_mean(group, names)}; --help "
            "lists all"
        )
    paragraphs = []
    for one in wanted:
        lines = [f"{key} = {_value(values[key])}" for key in one.keys] or [one.group]
        paragraphs.append("\n".join([*lines, *_wrapped(one.text)]))
    return "\n".join(paragraphs)


def _below(name: str, group: str) -> bool:
    return name == group or name.startswith(f"{group}.")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="      ", subsequent_indent="      ")


def every_key() -> dict[str, Any]:
    """Every key of every study, with its default."""
    kinds = config_diversity.diversity_config, config_selection.selection_config, default_config
    return {key: value for make in kinds for key, value in flatten(make()).items()}


def _of(config: ConfigDict) -> list[Described]:
    kind = config.get("study")
    if kind == config_diversity.STUDY:
        return described(config_diversity.diversity_config)
    if kind != config_selection.STUDY:
        return described(default_config)
    # A comparison has most keys of a study.
    there = flatten(config)
    shared = [
        one._replace(keys=[key for key in one.keys if key in there])
        for one in described(default_config)
        if not one.keys or there.keys() & set(one.keys)
    ]
    return [*described(config_selection.selection_config), *shared]


def _value(value: object) -> str:
    return repr(tuple(value) if isinstance(value, list) else value)
