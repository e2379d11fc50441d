"""What of an example is embedded: its prompt, its answer, both, or what a template makes of it."""

import json
from collections.abc import Callable
from pathlib import Path

from zsg_jax.data.dataset import Dataset
from zsg_jax.data.instance import TEXT, Instance, Turn
from zsg_jax.data.schemas.registry import SCHEMAS
from zsg_jax.data.tokenize.jinja import MARK, MARK_END, load
from zsg_jax.data.tokenize.truncation import Unfit
from zsg_jax.runtime.errors import UserError, check, did_you_mean
from zsg_jax.runtime.files import file_digest
from zsg_jax.runtime.progress import count, say
from zsg_jax.runtime.settings import setting

View = Callable[[Instance], str]
BOTH, PROMPT = "both", "prompt"
_LOOKED = 10_000  # rows of a side whose texts are looked at
_NO_MARKS = str.maketrans("", "", MARK + MARK_END)


def _prompt(instance: Instance) -> str:
    check(
        instance.turns[0].role != TEXT,
        f"{instance.id}: is a plain text without a prompt, of which its embedding was to be made; "
        "choose another text",
    )
    return _asked(instance)


def _asked(instance: Instance) -> str:
    return " ".join(turn.text for turn in instance.turns[: -1 if instance.answered else None])


def _answer(instance: Instance) -> str:
    check(
        instance.answered,
        f"{instance.id}: has no answer, of which its embedding was to be made; choose another text",
    )
    return instance.turns[-1].text


VIEWS: dict[str, View] = {BOTH: lambda one: one.text, PROMPT: _prompt, "answer": _answer}


def choose_view(name: str) -> View:
    """What makes a text of an example.

    Args:
        name: "both" for prompt, a space and answer, or what of these there is, and of preferences
            the chosen answer; "prompt", all turns but the last answer, joined by spaces; "answer";
            or a Jinja file, which gets `messages` as a chat template does.

    Raises:
        UserError: it is neither; or, of an example, it has no answer or does not fit the template.
    """
    if name in VIEWS:
        return VIEWS[name]
    check(
        Path(name).is_file(),
        f"{setting('similarity.text', repr(name))} is no file; give a Jinja file, or one of "
        f"{', '.join(VIEWS)}" + did_you_mean(name, VIEWS),
    )
    template = load(name, "", {})
    assert template is not None  # a file gives one

    def view(instance: Instance) -> str:
        try:
            text = template.render([turn.message for turn in instance.turns])
        except Unfit as error:
            raise UserError(f"{instance.id}: does not fit {name}: {error}") from None
        return text.translate(_NO_MARKS)

    return view


def check_texts(name: str, dataset: Dataset, side: str, *, conversations: bool = False) -> None:
    """Refuses a view that makes no text of any example of a side; tells what it leaves empty.

    Args:
        name: as `choose_view` takes it.
        dataset: as many of its examples are read as tell two texts apart, and `_LOOKED` at least;
            none for "both", which leaves nothing out.
        side: for messages.
        conversations: whether conversations are embedded, of which a plain text is one, whole.

    Raises:
        UserError: all texts are empty; or as the view does.
    """
    if name == BOTH or not len(dataset):
        return
    view = _asked if conversations and name == PROMPT else choose_view(name)
    first, alike, empty, seen = view(dataset[0]).strip(), True, 0, 0
    for one in dataset:
        if seen >= _LOOKED and not alike:
            break
        text = view(one).strip()
        alike, empty, seen = alike and text == first, empty + (not text), seen + 1
    check(
        bool(first) or not alike,
        f"{setting('similarity.text', repr(name))} makes no text of any of the {side} rows "
        f"({seen:,}), so that nothing could be compared; see that it reads what rows hold, as "
        "`messages[0].content`, or choose another text",
    )
    if alike and seen > 1:
        say(f"{name}: makes the same text of all {count(seen, f'{side} row')}, {first[:40]!r}")
    elif empty:
        of = count(seen, f"{side} row")
        say(f"{name}: makes no text of {empty:,} of {'the first ' * (seen < len(dataset))}{of}")


def conversations(name: str, prefix: str = "") -> View:
    """As `choose_view`, of what embeds conversations: their turns as JSON.

    "both" gives all turns, "prompt" all but the last answer. What else makes a text gives it as a
    conversation of that text alone, with `prefix` before it.

    Raises:
        UserError: as `choose_view`; or there is a prefix, for which turns have no place.
    """
    if name not in (BOTH, PROMPT):
        view = choose_view(name)
        return lambda one: _as_json((Turn(TEXT, prefix + view(one)),))
    check(
        not prefix,
        f"{prefix!r} would stand before what is embedded, but here that is a conversation in a "
        f"model's form; leave it out, or give another {setting('similarity.text')}",
    )
    if name == BOTH:
        return lambda one: _as_json(one.turns)
    return lambda one: _as_json(one.turns[: -1 if one.answered else None])


def _as_json(turns: tuple[Turn, ...]) -> str:
    return json.dumps(turns, ensure_ascii=False)


def read_conversation(text: str) -> tuple[Turn, ...]:
    """The turns of what `conversations` gives."""
    return tuple(Turn(*turn) for turn in json.loads(text))


def view_words(name: str, dataset: Dataset) -> str:
    """What of the examples of a dataset a view shows, in words."""
    if name not in VIEWS:
        return f"what {name} makes of it"
    schema = SCHEMAS[dataset.schema]
    whole = schema.whole
    if name == PROMPT and whole == "text":
        return whole  # taken by what embeds conversations
    if name != BOTH:
        return "chosen answer" if name == "answer" and "chosen" in whole else name
    # A preference without a prompt is a text that holds both.
    alone, lacked = ("chosen text", "a prompt") if "chosen" in whole else ("prompt", "an answer")
    if (schema.answer_by is None or "chosen" in whole) and dataset.unanswered:
        rest = f", of {dataset.unanswered:,} rows without {lacked} the {alone}"
        return alone if dataset.unanswered == len(dataset) else whole + rest
    return whole


def view_facts(name: str) -> dict[str, str]:
    """What tells a view from another, as JSON values: a file also by its SHA-256."""
    if name in VIEWS:
        return {"text": name}
    return {"text": name, "template_sha256": file_digest(Path(name))}
