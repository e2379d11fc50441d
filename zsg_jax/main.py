"""The command: `python -m zsg_jax.main --config FILE[:PRESET] [--config.KEY=VALUE …]`."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from zsg_jax import command_line, study
from zsg_jax.config import default_config, flatten

_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="A file with get_config(preset), as those in configs/; FILE:PRESET."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where everything is kept; default workdir/NAME[-PRESET] after the config."
)


def main(argv: Sequence[str]) -> None:
    """Runs the study that the flags name."""
    del argv
    # Libraries' running commentary would drown the study's own lines.
    logging.set_verbosity(logging.WARNING)
    config = command_line.loaded_config(_CONFIG.value)
    file, _, preset = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    name = Path(file).stem + (f"-{preset}" if preset else "")
    workdir = Path(_WORKDIR.value or Path("workdir") / name)
    command = shlex.join(["python", "-m", "zsg_jax.main", *sys.argv[1:]])
    page = study.run(config, workdir, command=command)
    print(f"report: {os.path.relpath(page)}")


if __name__ == "__main__":
    parse = command_line.parser(flatten(default_config()))
    app.run(command_line.guard(main), flags_parser=parse)
