"""Finds, compiles and renders a chat template, as `transformers` does, without it.

Templates are other people's code: they run in Jinja's sandbox, and what would make two runs differ
(the date, random choices) is not there. Where transformers would write today's date, a template
that puts a date of its own in its place (`strftime_now is defined`, as Llama 3.1's asks) gives that
one; any other is refused.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from zsg_jax.data.instance import TOOLS
from zsg_jax.data.tokenize.truncation import Unfit
from zsg_jax.runtime.bounded import bounded
from zsg_jax.runtime.errors import UserError, did_you_mean
from zsg_jax.runtime.files import read_json
from zsg_jax.runtime.settings import setting

STUDY, CHAT = "study", "chat"
# A rendering takes milliseconds; a template of loops within loops may take for ever.
SECONDS = 20.0
# Characters that Unicode keeps for use inside a program: they stand around what must be found
# again in a rendered text, the span of a {% generation %} block and, in `chat`, a turn's words.
MARK, MARK_END = "\ufdd0", "\ufdd1"
# As Python writes what JSON writes otherwise.
_SPELLED = {"True": "true", "False": "false", "None": "null"}
# What every template is given, besides special tokens.
_GIVEN = ("messages", "tools", "documents", "add_generation_prompt", "strftime_now")
# Stands where a template would write today's date.
_DATE = "\ufdd5"
_DATED = (
    "it asks for today's date (strftime_now), so that no run could be repeated; put a fixed date "
    "into a copy of it"
)


class ChatTemplate:
    """A compiled template.

    Attributes:
        name: for messages.
        fingerprint: SHA-256 over its text and the special tokens it is given.
        marks_answers: whether it has `{% generation %}` blocks.
    """

    def __init__(
        self,
        source: str,
        name: str,
        special_tokens: Mapping[str, str],
        arguments: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Compiles `source`.

        Args:
            special_tokens: variables, as {"bos_token": "<s>"}.
            arguments: more of them, as {"enable_thinking": False}.

        Raises:
            UserError: if it is no Jinja template, or reads no variable of an argument's name.
        """
        environment = _environment()
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(
                f"{name}: is no Jinja template that can be read: line {error.lineno}: {error}"
            ) from None
        tree = environment.parse(source)
        self.marks_answers = any(
            isinstance(block.call.node, nodes.ExtensionAttribute)
            for block in tree.find_all(nodes.CallBlock)
        )
        self.name = name
        free = meta.find_undeclared_variables(tree) - {*special_tokens, *_GIVEN}
        for argument in arguments:
            if argument not in free:
                read = ", ".join(sorted(free)) or "none"
                raise UserError(
                    f"{setting('data.template_args')}: {name} reads no variable "
                    f"{argument!r} (it reads: {read})" + did_you_mean(argument, free)
                )
        self._variables: dict[str, Any] = dict(special_tokens) | dict(arguments)
        self._asks_date = "strftime_now" in source
        content = json.dumps([source, self._variables], sort_keys=True).encode()
        self.fingerprint = hashlib.sha256(content).hexdigest()

    def render(self, messages: Sequence[Mapping[str, Any]], prompt: bool = False) -> str:
        """The text of a conversation, with `MARK` and `MARK_END` around generation blocks.

        Args:
            messages: `{"role", "content"}` each, and what else `Turn.message` has; the first may be
                the JSON list of `tools`.
            prompt: whether the head of an answer to come is added (add_generation_prompt).

        Raises:
            Unfit: with the template's own reason, or the mistake in it.
        """
        tools = None
        if messages and messages[0]["role"] == TOOLS:
            tools, messages = json.loads(messages[0]["content"]) or None, messages[1:]
        variables = self._variables | {
            "messages": [dict(message) for message in messages],
            "tools": tools,
            "documents": None,
            "add_generation_prompt": prompt,
        }
        text = self._render(variables)
        if not self._asks_date:
            return text
        asked: list[str] = []

        def strftime_now(form: str) -> str:
            asked.append(form)
            return _DATE

        try:
            dated = self._render({**variables, "strftime_now": strftime_now})
        except Unfit:
            dated = ""
        own_date = r"[^\n]*[0-9][^\n]*".join(map(re.escape, dated.split(_DATE)))
        if asked and not re.fullmatch(own_date, text):
            raise Unfit(_DATED)
        return text if asked else dated

    def _render(self, variables: Mapping[str, Any]) -> str:
        try:
            with bounded(lambda: _endless(self.name, variables["messages"]), SECONDS):
                return self._template.render(variables)
        except Exception as error:  # whatever the template's own expressions raise
            raise Unfit(_reason(error)) from None


def _endless(name: str, messages: Sequence[Mapping[str, Any]]) -> str:
    said = next((one["content"] for one in messages), "")
    return (
        f"{name}: the template has not ended within {SECONDS:.0f} s, given {len(messages)} "
        f"messages that begin with {said[:40]!r}; mend its loops, or give another "
        f"{setting('data.template')}"
    )


def _reason(error: Exception) -> str:
    told = " ".join(str(error).split())
    if "strftime_now" in told:
        return _DATED
    if isinstance(error, jinja2.TemplateRuntimeError):
        return f"it fails: {told}"
    if isinstance(error, jinja2.TemplateError):
        return f"it says: {told}"
    return f"it fails: {type(error).__name__}: {told}"


def parse_arguments(text: str) -> dict[str, Any]:
    """Reads "NAME=VALUE,NAME=VALUE", as "enable_thinking=false"; what is no JSON value is a text.

    Raises:
        UserError: for what is no such list, or gives one name twice.
    """
    found: dict[str, Any] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not (sign and name.isidentifier() and value) or name in found:
            raise UserError(
                f"{setting('data.template_args', repr(text))}: {part!r} is no NAME=VALUE, "
                "or given twice; give the like of enable_thinking=false"
            )
        try:
            found[name] = json.loads(_SPELLED.get(value, value))
        except ValueError:
            found[name] = value
    return found


def load(
    template: str,
    tokenizer: str | Path,
    special_tokens: Mapping[str, str],
    arguments: Mapping[str, Any] = MappingProxyType({}),
    key: str = "data.template",
) -> ChatTemplate | None:
    """The template that a setting names; None for "study".

    Args:
        template: "study", "chat" for the template in the folder `tokenizer`, or a Jinja file.
        special_tokens: of the tokenizer, by name.
        arguments: what else the template is given.
        key: of the setting, for messages.

    Raises:
        UserError: if there is none, or it is broken.
    """
    if template == STUDY:
        return None
    if template == CHAT:
        return ChatTemplate(*_of_folder(Path(tokenizer), key), special_tokens, arguments)
    path = Path(template)
    if not path.is_file():
        raise UserError(
            f"{setting(key, repr(template))} is no file; give a Jinja file, "
            f'"{CHAT}" for the tokenizer\'s own, or '
            f'"{STUDY}"{did_you_mean(template, (STUDY, CHAT))}'
        )
    return ChatTemplate(_text(path), str(path), special_tokens, arguments)


def _of_folder(folder: Path, key: str) -> tuple[str, str]:
    """The text of a tokenizer's own template, and the file it stands in."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return _text(path), str(path)
    for name in ("tokenizer_config.json", "chat_template.json"):
        path = folder / name
        content = read_json(path) or {}
        found = content.get("chat_template")
        if isinstance(found, list):
            found = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        if isinstance(found, dict):
            if "default" not in found:
                raise UserError(
                    f"{path}: names the templates {', '.join(map(str, found))} but no default; "
                    "save the one you want as a file and give its path as "
                    f"{setting(key)}"
                )
            found = found["default"]
        if isinstance(found, str):
            return found, str(path)
        if found is not None:
            raise UserError(f"{path}: chat_template is no text and no list of named texts")
    raise UserError(
        f'{setting(key, CHAT)}: {folder} holds no chat template; give a Jinja file, or "{STUDY}"'
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, **options: Any) -> str:
        # Jinja's own filter escapes for HTML.
        return json.dumps(value, **{"ensure_ascii": False, **options})

    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = tojson
    del environment.filters["random"], environment.globals["lipsum"]
    return environment


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}`: what a template says that the model writes."""

    tags = {"generation"}  # noqa: RUF012, Jinja's own form

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Macro) -> str:
        return f"{MARK}{caller()}{MARK_END}"
