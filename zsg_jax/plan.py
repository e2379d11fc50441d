"""The command: `python -m zsg_jax.plan --config FILE[:PRESET] --topology v5p:2x2x2 [flags]`."""

from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from zsg_jax import config_diversity, config_help, config_selection
from zsg_jax.runtime import cli, streams
from zsg_jax.runtime.errors import UserError, check

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="A packaged config by name, or a file with get_config(preset); NAME[:PRESET].",
)
_TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "The machine: v4:2x2x2, v5p:2x2x2, v5e:4x4, v6e:2x4, h200:8, a100-80:8, rtx4090:1, cpu:8.",
)
_ROWS = flags.DEFINE_integer("rows", None, "Training rows of an epoch, for the days it takes.")
_MEMORY_GB = flags.DEFINE_float(
    "memory_gb", None, "10^9 bytes of each chip that may be used, instead of the known figure."
)
flags.DEFINE_alias("memory-gb", "memory_gb")
_JSON = flags.DEFINE_bool("json", False, "Print the numbers as JSON.")


def main(argv: Sequence[str]) -> None:
    """Plans what the flags name; exit 1 where it does not fit."""
    del argv
    with streams.importing():
        from zsg_jax.workflows import plan as command
        from zsg_jax.workflows import plan_diversity, selection
    logging.set_verbosity(logging.WARNING)
    config = cli.loaded_config(_CONFIG.value)
    if not _TOPOLOGY.value:
        raise UserError("--topology is missing; give a machine such as --topology v5p:2x2x2")
    machine, memory, json = _TOPOLOGY.value, _MEMORY_GB.value, _JSON.value
    if config.get("study") == config_selection.STUDY:
        config = selection.largest(config)
    if config.get("study") == config_diversity.STUDY:
        check(_ROWS.value is None, "--rows: the config tells them; set training.steps instead")
        advice = plan_diversity.run(config, machine, memory_gb=memory, as_json=json)
    else:
        advice = command.run(config, machine, rows=_ROWS.value, memory_gb=memory, as_json=json)
    if advice is not None:
        cli.fail(advice)


def _helped(config: ConfigDict | None, group: str) -> str:
    return config_help.told(
        config,
        group,
        "python -m zsg_jax.plan",
        "Tells, without the machine, whether a study fits on it, how long it takes and what to "
        "change. Exit 1 where it does not fit.",
        "--config tmta:llama2_7b --topology v5p:2x2x2",
        [one.name for one in (_CONFIG, _TOPOLOGY, _ROWS, _MEMORY_GB, _JSON)],
    )


def run() -> None:
    """The command, with the flags of `sys.argv`."""
    parse = cli.parser(config_help.every_key(), _helped)
    app.run(cli.guard(main), flags_parser=parse)


if __name__ == "__main__":
    run()
