"""Of a Natural Instructions task: what the prompt shows, and which instances are used."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

from zsg_jax.data.sampling import draw
from zsg_jax.runtime.errors import check, did_you_mean
from zsg_jax.runtime.settings import setting

PROMPT_SCHEMAS = ("fixed", "random")
REFERENCES = ("drawn", "first")


class PromptForm(NamedTuple):
    """What a prompt holds besides the input: parts of the task, and how many of its examples."""

    task_name: bool = False
    definition: bool = True
    positive: int = 0
    negative: int = 0
    explanation: bool = False


# Those Tk-Instruct was trained on, each as often as the others (arXiv 2204.07705, training).
RANDOM_FORMS = (
    PromptForm(),
    PromptForm(definition=False, positive=2),
    PromptForm(positive=2),
    PromptForm(positive=2, negative=2),
    PromptForm(positive=2, explanation=True),
)


@dataclass(frozen=True)
class Options:
    """As `data.natural_instructions` of `config.py` documents them; the defaults are the study's.

    Raises:
        UserError: for a value that means nothing.
    """

    positive_examples: int = 2
    negative_examples: int = 0
    explanation: bool = False
    task_name: bool = False
    definition: bool = True
    schema: str = "fixed"
    max_source: int = 1024
    reference: str = "drawn"
    train_per_task: int = 100
    test_per_task: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("schema", PROMPT_SCHEMAS), ("reference", REFERENCES)):
            value = getattr(self, name)
            check(
                value in choices,
                f"natural_instructions: {name}={value!r} is unknown; choose one of "
                f"{', '.join(choices)}",
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            check(
                type(value) is not int or value >= 0,
                f"natural_instructions: {field.name}={value} must be at least 0",
            )

    def form(self, task: str, identity: str) -> PromptForm:
        """The form of one instance's prompt."""
        if self.schema == "random":
            return RANDOM_FORMS[draw(self.seed, "schema", task, identity) % len(RANDOM_FORMS)]
        return PromptForm(
            self.task_name,
            self.definition,
            self.positive_examples,
            self.negative_examples,
            self.explanation,
        )

    @property
    def largest_form(self) -> PromptForm:
        """What any prompt holds at most."""
        if self.schema == "random":
            return PromptForm(positive=2, negative=2, explanation=True)
        return self.form("", "")


# Every instance, its first reference, the study's prompt without a limit.
WHOLE = Options(max_source=0, reference="first", train_per_task=0, test_per_task=0)


def from_text(text: str, base: Options = WHOLE) -> Options:
    """Options as a flag gives them, "negative_examples=2,explanation=true"; else those of `base`.

    Raises:
        UserError: for an unknown name or a value that is not of its type.
    """
    given: dict[str, Any] = {}
    names = [field.name for field in dataclasses.fields(base)]
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        check(
            name in names,
            f"natural_instructions: {name!r} is no option; there are {', '.join(names)}"
            + did_you_mean(name, names),
        )
        wanted = type(getattr(base, name))
        if wanted is bool and value.lower() in ("true", "false"):
            given[name] = value.lower() == "true"
        elif wanted is int and value.isascii() and value.isdigit():
            given[name] = int(value)
        else:
            what = "true or false" if wanted is bool else "a whole number from 0"
            check(wanted is str, f"natural_instructions: {name}={value!r} must be {what}")
            given[name] = value
    return dataclasses.replace(base, **given)


def check_untokenized(options: Options) -> None:
    """Refuses a limit in tokens where there is no tokenizer to count them."""
    check(
        not options.max_source,
        f"{setting('data.natural_instructions.max_source', options.max_source)} counts tokens of a "
        "study's tokenizer, and there is none here; leave it out",
    )
