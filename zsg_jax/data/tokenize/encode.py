"""Instances to tokens and loss masks: a form renders them, a limit cuts them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize import chat
from zsg_jax.data.tokenize import user_assistant as study
from zsg_jax.data.tokenize.examples import Examples
from zsg_jax.data.tokenize.jinja import ChatTemplate
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.data.tokenize.truncation import Fitted, TokenizedExample, Unfit, fit
from zsg_jax.runtime.errors import UserError

ANSWERS = ("all", "last")


class Form(NamedTuple):
    """How instances are put into tokens.

    Attributes:
        template: as `jinja.load` gives it; None for the study's own form.
        answers: which of a conversation's answers carry loss, "all" or "last".
        truncation: one of `truncation.TRUNCATIONS`.
        max_answer: tokens at most of an answer with what closes it; None: as many as there are.
        join: of the study's form, whether a prompt and its answer are tokenized as one text.
    """

    template: ChatTemplate | None = None
    answers: str = "all"
    truncation: str = "tail"
    max_answer: int | None = None
    join: bool = False

    @property
    def fingerprint(self) -> str:
        """The template's digest; of the study's form, its name and where it cuts tokens apart."""
        if self.template:
            return self.template.fingerprint
        return f"study, {'joined' if self.join else 'cut apart'}"


STUDY_FORM = Form()


def encode(
    instances: Sequence[Instance],
    tokenizer: Tokenizer,
    max_length: int,
    on_progress: Callable[[int], object] = lambda examples: None,
    form: Form = STUDY_FORM,
) -> Examples:
    """Tokenizes instances, marks what is learned and cuts examples to `max_length` tokens.

    Examples that the template does not fit hold no token and are listed in `Examples.refused`.
    """
    made: list[Fitted] = []
    stripped: list[int] = []
    refused: dict[int, str] = {}
    for start in range(0, len(instances), 1024):
        turns = [instance.turns for instance in instances[start : start + 1024]]
        for its, one in zip(turns, _tokenized(turns, tokenizer, form), strict=True):
            if isinstance(one, Unfit):
                refused[len(made)] = str(one)
                one = TokenizedExample(*[np.zeros(0, np.int32)] * 3)
            made.append(fit(one, its, max_length, form.truncation, form.max_answer))
            blank = (turn.content[:1].isspace() for turn in its)
            stripped.append(0 if form.template else sum(blank))
        on_progress(len(turns))
    limits = [
        (one.prompt_cut + one.answer_cut, one.answer_cut, count)
        for one, count in zip(made, stripped, strict=True)
    ]
    return Examples(
        [(one.ids, one.loss_mask) for one in made], np.reshape(limits, (-1, 3)), refused
    )


def prompt_tokens(
    instance: Instance,
    tokenizer: Tokenizer,
    form: Form = STUDY_FORM,
    max_length: int | None = None,
) -> np.ndarray:
    """What a model is given to answer the last prompt of `instance`, whose own answer is not read.

    Args:
        max_length: tokens at most: what is over is taken from the words of the prompt, or from its
            end, as `form.truncation` says.

    Returns:
        (n,) int32, exactly one bos where the form or the template writes one: the tokens that stand
        before the answer in what `encode` makes of the instance, unless it is cut.

    Raises:
        UserError: if the template does not fit.
    """
    (one,) = _tokenized([instance.turns[:-1]], tokenizer, form)
    if isinstance(one, Unfit):
        raise UserError(f"example {instance.id!r}: the chat template does not fit: {one}")
    # A token stands for the answer, which limits cut last.
    asked = TokenizedExample(
        np.append(one.ids, 0),
        np.append(one.answer, one.answer.max(initial=-1) + 1),
        np.append(one.turn, -1),
    )
    limit = len(one.ids) if max_length is None else max_length
    fitted = fit(asked, instance.turns, limit + 1, form.truncation, form.max_answer)
    return fitted.ids[: min(fitted.prompt, limit)]


def _tokenized(
    conversations: Sequence[Sequence[Turn]], tokenizer: Tokenizer, form: Form
) -> Sequence[TokenizedExample | Unfit]:
    if form.template is None:
        return study.tokenized(conversations, tokenizer, form.answers, form.join)
    return chat.tokenized(conversations, tokenizer, form.template, form.answers)
