"""Flags and exits for every command: a user's mistake is one line on standard error, and exit 1."""

import argparse
import dataclasses
import re
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict

from zsg_jax.runtime import foreign, streams
from zsg_jax.runtime import signals as stopping
from zsg_jax.runtime.errors import UserError, did_you_mean, first_line

VERSION = f"zsg_jax {version('zsg_jax')}"
speaker = "zsg_jax"  # and which process it is, where others speak too


class Parser(argparse.ArgumentParser):
    """The flags of a command; a wrong one is told in one line, as every other mistake is."""

    def __init__(self, command: str, description: str, example: str, options: Any) -> None:
        """Takes the defaults of flags from the fields of `options`, a dataclass.

        `example` is a call's flags, shown below those of --help.
        """
        program = f"python -m zsg_jax.{command}"
        super().__init__(
            prog=program,
            description=textwrap.fill(description, 79),
            epilog=f"example:\n  {program} {example}",
            allow_abbrev=False,
            conflict_handler="resolve",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # Of data sets that are written, --version is their own.
        self.add_argument("--version", action="version", version=VERSION)
        self._defaults = {one.name: one.default for one in dataclasses.fields(options)}

    def flag(self, name: str, text: str, **options: Any) -> None:
        """Adds a flag; `options` are those of `add_argument`."""
        default = self._defaults.get(name.removeprefix("--").replace("-", "_"))
        if "action" not in options and default is not dataclasses.MISSING:
            options.setdefault("default", default)
            if default not in (None, "") and not options.get("required"):
                text += f" (default: {default})"
        if options.get("metavar") in _PATHS:
            options["action"] = _Path
        self.add_argument(name, help=text, **options)

    def error(self, message: str) -> NoReturn:
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        unknown = message.removeprefix("unrecognized arguments: ").split()[0].partition("=")[0]
        known = did_you_mean(unknown, flags) if unknown.startswith("--") else ""
        fail(f"{message}{known}; --help lists all flags")


# What stands for a path in --help.
_PATHS = ("SOURCE", "FILE", "FILE.jsonl", "A.npy", "B.npy", "FOLDER", "DIR", "PATH", "WORKDIR")


class _Path(argparse.Action):
    """Refuses the empty path, as of a variable that is not set, of which `Path` would make "."."""

    def __init__(self, *given: Any, type: Callable[[str], Any] = str, **named: Any) -> None:
        super().__init__(*given, **named)
        self._kind = type

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        several = values if isinstance(values, list) else [values]
        if not all(one.strip() for one in several):
            raise argparse.ArgumentError(self, "is empty; leave it out, or give a path")
        made = tuple(map(self._kind, several))
        setattr(namespace, self.dest, made if isinstance(values, list) else made[0])


Helped = Callable[[ConfigDict | None, str], str]
_HELP = re.compile(r"-h|--?help|--?config\.help(?:=(.*))?")


def parser(defaults: Mapping[str, Any], helped: Helped) -> Callable[[Sequence[str]], list[str]]:
    """Makes the `flags_parser` of `absl.app.run`, telling what is wrong in one line.

    Args:
        defaults: every key that --config.KEY may set, as "training.batch_size", with its default.
            A key whose default is None may be set back to it.
        helped: (the config given, if any, and a group, or "" for the command) → what --help shows,
            or --config.help=GROUP.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        if "--version" in argv:
            guard(lambda _: streams.show(VERSION))([])
            sys.exit(0)
        help_flags = list(filter(None, map(_HELP.fullmatch, argv)))
        argv = [word for word in argv if not _HELP.fullmatch(word)]
        if help_flags:
            sys.argv[:] = argv  # in which config_flags looks for keys
        try:
            _check_overrides(argv, defaults)
            given, cleared = _split_cleared(_last_of_each(argv), defaults)
            rest = flags.FLAGS(_with_config_file(given))
            config = flags.FLAGS["config"].value
            if isinstance(config, ConfigDict):
                config.update_from_flattened_dict(dict.fromkeys(cleared))
            if help_flags:
                group = "" if "config" not in help_flags[0][0] else help_flags[0][1] or "all"
                streams.show(helped(config if isinstance(config, ConfigDict) else None, group))
                sys.exit(0)
        except SystemExit:
            # absl shows its help and calls that a failure.
            asked = help_flags or any(re.fullmatch(r"--?help(short|full|xml)", w) for w in argv)
            sys.exit(0 if asked else 1)
        except flags.UnrecognizedFlagError as error:
            known = [f"--{name}" for name in flags.FLAGS]
            fail(f"--{error.flagname}: unknown flag{did_you_mean(f'--{error.flagname}', known)}")
        except flags.IllegalFlagValueError as error:
            fail(f"{first_line(error)}; --config.help shows what each key takes")
        except (UserError, flags.Error) as error:
            fail(first_line(error))
        # The user's config file is run here, so anything may come out of it.
        except Exception as error:
            fail(_not_in_config(error, argv) or not_loaded("--config", error))
        if len(rest) > 1:
            fail(f"{rest[1]!r}: unknown argument; settings are given as --config.KEY=VALUE")
        return rest

    return parse


def guard(main: Callable[[Sequence[str]], Any]) -> Callable[[Sequence[str]], Any]:
    """Wraps a `main` so that `UserError`, Ctrl-C, SIGTERM and SIGHUP end in a line, not a trace."""

    def guarded(argv: Sequence[str]) -> None:
        streams.begin()
        if limit := foreign.limit():
            _say(limit)
        try:
            main(argv)
        except UserError as error:
            fail(foreign.short_of_files(error) or str(error), error.code)
        except stopping.Terminated:
            end_by(stopping.heard())
        except KeyboardInterrupt:
            end_by(signal.SIGINT)
        except SystemExit:
            raise
        except BaseException as error:
            line = foreign.told(error)
            if line is None:
                raise
            fail(line)

    return guarded


def command(main: Callable[[Sequence[str]], Any]) -> Callable[[], None]:
    """What a script of the package calls: `guard` of a `main`, with the flags of `sys.argv`."""
    return lambda: guard(main)(sys.argv)


def loaded_config(value: Any) -> ConfigDict:
    """The config behind a `config_flags` flag.

    Raises:
        UserError: if no file was given, or it could not be loaded.
    """
    if value is None:
        raise UserError("--config is missing; give a name or a file, such as --config tmta")
    if isinstance(value, ConfigDict):
        return value
    try:
        # config_flags hands out a stand-in that raises the loader's error when it is touched.
        _ = value.seeds
    except OSError as error:
        raise UserError(not_loaded("--config", error)) from None
    except AttributeError:
        pass
    raise UserError("--config: get_config() must return an ml_collections.ConfigDict")


def fail(message: str, code: int = 1) -> NoReturn:
    """Prints one line to standard error and exits with `code`."""
    _say(message)
    sys.exit(code)


def end_by(number: int) -> NoReturn:
    """Says that SIGTERM, SIGHUP or Ctrl-C has ended this process, and ends it at once."""
    what = "stopped" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    _say(f"{what}; the same command goes on from what is kept")
    streams.end_now(128 + number)


def _say(message: str) -> None:
    streams.tell(f"{speaker}: {message}")


def _last_of_each(argv: Sequence[str]) -> list[str]:
    """`argv` without overrides that a later one of the same key replaces.

    config_flags would make one tuple of two.
    """
    kept: dict[Any, str] = {}
    for place, argument in enumerate(argv):
        match = re.match(r"--?config\.([^=]+)=", argument)
        key = match[1] if match else place
        kept.pop(key, None)
        kept[key] = argument
    return list(kept.values())


def _split_cleared(argv: Sequence[str], defaults: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """`argv` without overrides by None of keys that may be None, and these keys.

    config_flags reads None as a broken number.
    """
    cleared = {
        argument: match[1]
        for argument in argv
        if (match := re.fullmatch(r"--?config\.([^=]+)=None", argument))
        and match[1] in defaults
        and defaults[match[1]] is None
    }
    return [argument for argument in argv if argument not in cleared], list(cleared.values())


def packaged_configs() -> dict[str, Path]:
    """The configs that come with the package: name → file."""
    package = Path(__file__).parents[1]
    # In the wheel they lie inside the package, in a checkout beside it.
    folder = next(f for f in (package / "configs", package.parent / "configs") if f.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def no_config(told: str, name: str) -> UserError:
    """Says, after `told`, that there is neither a file nor a packaged config of a name."""
    names = packaged_configs()
    return UserError(
        f"{told}: no such file, and none of the packaged {', '.join(names)}"
        f"{did_you_mean(name, names)}"
    )


def study_name(file: str, preset: str) -> str:
    """What the workdir of a config and its preset is called: NAME, or NAME-PRESET."""
    return Path(file).stem + (f"-{preset}" if preset else "")


def _with_config_file(argv: Sequence[str]) -> list[str]:
    """`argv` with --config NAME[:PRESET] as the path of the packaged config NAME.

    Raises:
        UserError: there is neither a file nor a packaged config of the name.
    """
    given = list(argv)
    for position, argument in enumerate(argv):
        match = re.fullmatch(r"(--?config)(?:=(.*))?", argument)
        if match is None:
            continue
        at = position if match[2] is not None else position + 1
        name, colon, preset = (match[2] or "".join(argv[at : at + 1])).partition(":")
        names = packaged_configs()
        if not name or Path(name).is_file():
            continue
        if name not in names or Path(name).exists():
            raise no_config(f"--config {name}", name)
        given[at] = f"{match[1] + '=' if at == position else ''}{names[name]}{colon}{preset}"
    return given


def _check_overrides(argv: Sequence[str], keys: Collection[str]) -> None:
    """Checks the overrides' keys, which config_flags tells less plainly."""
    groups = {key.rpartition(".")[0] for key in keys}
    for argument in argv:
        if match := re.match(r"--?config\.([^=]+)", argument):
            key = match[1]
            if key not in keys and key not in groups:
                raise UserError(
                    f"--config.{key}: a key that nothing reads{did_you_mean(key, keys)}"
                )


def _not_in_config(error: BaseException, argv: Sequence[str]) -> str | None:
    """What to say of an override whose key another config has, but not this one."""
    for argument in argv:
        match = re.match(r"--?config\.([^=]+)", argument)
        groups = match[1].split(".") if match else []
        if (
            isinstance(error, KeyError | AttributeError)
            and str(error.args[0]).strip("'\"") in groups
        ):
            return f"--config.{match[1] if match else ''}: a key of another study than this one's"
    return None


def not_loaded(told: str, error: BaseException) -> str:
    """What to say, after `told`, of whatever came out of a user's config file."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, UserError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    what = f"{type(error).__name__}: {first_line(error)}{where}"
    return f"{told}: the file cannot be loaded: {what}"
