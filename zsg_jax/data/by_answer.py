"""Every answer of a conversation as an instance of its own, with what stands before as its prompt.

Chat templates that write earlier turns otherwise than the last, as those do that take thoughts out,
show inference another text than one sequence of the whole conversation could teach. Here each
answer is the last turn of its own sequence, after the history as inference will see it.
"""

import dataclasses
from functools import partial

import numpy as np

from zsg_jax.data.dataset import Dataset, Part, as_record
from zsg_jax.data.instance import Instance
from zsg_jax.data.tokenize.encode import EACH
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.progress import count, say
from zsg_jax.runtime.settings import setting


def by_answer(dataset: Dataset, side: str) -> Dataset:
    """An instance for each answer of `dataset` that may carry loss, in order.

    Of a conversation with several, the ids are "ID#1", "ID#2", … by the number of the answer; what
    else its last answer has (references, choices) stays with that. The instances are made when they
    are asked for.

    Args:
        dataset: N conversations; closing what is given closes it.
        side: "training" or "test", for the line that tells how many there are.

    Raises:
        UserError: an id made so is another row's.
    """
    if not len(dataset):
        return dataset
    found = [
        (index, turn, _until(one, turn).id)
        for index, one in enumerate(dataset)
        for turn in _learned(one)
    ]
    ids = [identity for *_, identity in found]
    index, turn = (np.array([one[part] for one in found], np.int64) for part in (0, 1))
    check(
        len(set(ids)) == len(ids),
        f"{dataset.path}: an id of a {side} row is that of another's answer, as ID#1; name the "
        "rows otherwise",
    )
    say(
        f"{setting('data.answers', EACH)}: {count(len(dataset), f'{side} conversation')} became "
        f"{count(len(ids), 'row')}, one for each answer"
    )

    def instance(at: int) -> Instance:
        return _until(dataset[int(index[at])], int(turn[at]))

    part = Part(
        "messages",
        dataset.numbers[index],
        lambda at: as_record(instance(at)),
        instance,
        dataset.close,
        location=lambda at: dataset.location(int(index[at])),
        own=lambda at: dataset.own(int(index[at])),
    )
    return dataclasses.replace(
        dataset,
        parts=[part],
        part_of=np.zeros(len(ids), np.int32),
        within=np.arange(len(ids)),
        task_index=dataset.task_index[index],
        no_answer=None,
        known_ids=ids,
        known_digest="",
        set_index=None if dataset.set_index is None else dataset.set_index[index],
        conversation=index,
    )


def _learned(one: Instance) -> list[int]:
    turns = enumerate(one.turns)
    return [number for number, turn in turns if turn.role == "assistant" and turn.learned]


def _until(one: Instance, end: int) -> Instance:
    """The instance of the answer in turn `end`."""
    answers = [number for number, turn in enumerate(one.turns) if turn.role == "assistant"]
    if len(answers) == 1:
        return one
    cut = partial(dataclasses.replace, one, id=f"{one.id}#{answers.index(end) + 1}")
    if end == len(one.turns) - 1:
        return cut()
    return cut(turns=one.turns[: end + 1], references=(one.turns[end].text,), choices=())
