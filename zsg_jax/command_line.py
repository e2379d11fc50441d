"""Flags and exits for every command: a user's mistake is one line on standard error, and exit 1."""

import difflib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict

from zsg_jax.errors import UserError


def parse(argv: Sequence[str]) -> list[str]:
    """Parses flags, for `absl.app.run(flags_parser=…)`; what is wrong is told in one line."""
    try:
        rest = flags.FLAGS(list(argv))
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(flags.FLAGS), n=1)
        fail(f"--{error.flagname}: unknown flag" + (f"; did you mean --{near[0]}?" if near else ""))
    except UserError as error:
        fail(str(error))
    # config_flags reads the config file and walks its keys here; both raise what they like.
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        fail(_config_mistake(list(argv), error))
    if len(rest) > 1:
        fail(f"{rest[1]!r}: unknown argument; flags are --config, --workdir and --config.KEY=VALUE")
    return rest


def guard(main: Callable[[Sequence[str]], Any]) -> Callable[[Sequence[str]], Any]:
    """Wraps a `main` so that `UserError` and Ctrl-C end in one line instead of a stack trace."""

    def guarded(argv: Sequence[str]) -> None:
        try:
            main(argv)
        except UserError as error:
            fail(str(error))
        except KeyboardInterrupt:
            fail("stopped; the same command goes on from the last checkpoint", code=130)

    return guarded


def loaded_config(value: Any) -> ConfigDict:
    """The config behind a `config_flags` flag.

    Raises:
        UserError: if no file was given, or it could not be loaded.
    """
    if value is None:
        raise UserError("--config is missing; give a file such as --config configs/tmta.py")
    if isinstance(value, ConfigDict):
        return value
    try:
        # config_flags hands out a stand-in that raises the loader's error when it is touched.
        value.seeds  # noqa: B018
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"--config {error.filename}: no such file") from None
    except Exception as error:
        raise UserError(f"--config: cannot be loaded: {_first_line(error)}") from None
    raise UserError("--config: get_config() must return an ml_collections.ConfigDict")


def fail(message: str, code: int = 1) -> NoReturn:
    """Prints one line to standard error and exits."""
    print(f"zsg_jax: {message}", file=sys.stderr)
    sys.exit(code)


def _config_mistake(argv: list[str], error: Exception) -> str:
    told = _first_line(error)
    unknown = re.match(r"^'?\\?'?(?P<key>[^'\\]+)'.*", told)
    near = re.search(r'Did you mean "(?P<near>[^"]+)" instead of "(?P<key>[^"]+)"', str(error))
    overrides = [arg.split("=", 1)[0] for arg in argv if arg.startswith("--config.")]
    if isinstance(error, AttributeError | KeyError):
        key = near["key"] if near else unknown["key"] if unknown else told
        flag = next((arg for arg in overrides if key in arg.split(".")), f"--config.{key}")
        hint = f"; did you mean {near['near']!r}?" if near else ""
        return f"{flag}: {key!r} is a key that nothing reads{hint}"
    return told


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
