"""How the user of the command that runs sets a key of a config: what a message may tell to pass."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from zsg_jax.runtime.errors import check

# Of a study: what is no key of its config.
_STUDY = {"workdir": "--workdir"}
_flags: Mapping[str, str] | None = None


@contextmanager
def named_by(flags: Mapping[str, str]) -> Iterator[None]:
    """Messages inside name keys by the flags of a command, `{"data.max_length": "--max-length"}`.

    The flag of a group of keys, as of "data.natural_instructions", serves those in it.
    """
    global _flags
    before, _flags = _flags, flags
    try:
        yield
    finally:
        _flags = before


def flag(name: str) -> str:
    """The flag of a command that sets a field of its options."""
    return f"--{name.replace('_', '-')}"


# How sources are read and where a command writes, by flags that several have.
READING = {
    **{f"data.{one}": flag(one) for one in ("train", "test", "bad_rows", "max_row_bytes")},
    **{f"data.{one}": flag(f"data_{one}") for one in ("format", "fields")},
    "data.natural_instructions": "--natural-instructions",
    "workdir": "--output",
}


def check_least(options: object, **least: float) -> None:
    """Refuses fields of a command's options that are less than they may be; None is none.

    Raises:
        UserError: naming the flag, its value and the least.
    """
    for name, minimum in least.items():
        value = getattr(options, name)
        check(
            value is None or value >= minimum,
            f"{flag(name)} {value}: it must be at least {minimum:g}",
        )


def setting(key: str, value: object = None) -> str:
    """A key, and what it is or should be set to, as the user of this command writes it.

    "--config.data.max_length=512" of a study; "--max-length=512" by `named_by`; and
    "data.max_length=512 in the study" where the command has no flag for it.
    """
    given = "" if value is None else f"={value}"
    flags = _STUDY if _flags is None else _flags
    if key in flags:
        return f"{flags[key]}{given}"
    group, _, name = key.rpartition(".")
    if group in flags:
        return f"{flags[group]}={name}{given}"
    return f"--config.{key}{given}" if _flags is None else f"{key}{given} in the study"
