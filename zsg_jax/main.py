"""The command: `python -m zsg_jax.main --config FILE[:PRESET] [--config.KEY=VALUE …]`."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from zsg_jax import config_diversity, config_help, config_selection
from zsg_jax.runtime import cli, cluster, processes, progress, streams
from zsg_jax.runtime import signals as stopping
from zsg_jax.runtime.buckets import Store, is_address
from zsg_jax.runtime.errors import check

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="A packaged config by name, or a file with get_config(preset); NAME[:PRESET].",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where everything is kept: a folder, gs://BUCKET/PATH or s3://BUCKET/PATH; default "
    "workdir/NAME[-PRESET] after the config.",
)
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    cluster.MODES,
    "Whether to join other processes: auto, if the next flags or the variables of Slurm, Open MPI, "
    "JobSet or a TPU slice say that there are some; on, also as JAX detects them (a TPU VM); off.",
)
_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT at which process 0 listens, the same for all processes."
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
_INITIALIZATION = flags.DEFINE_integer(
    "initialization_timeout", 300, "Seconds that all processes have to come."
)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_timeout_seconds", 30, "Seconds of silence after which a process counts as dead."
)
_FLAGS = (
    *(_CONFIG, _WORKDIR, _DISTRIBUTED, _ADDRESS, _PROCESSES, _PROCESS),
    *(_INITIALIZATION, _HEARTBEAT),
)


def main(argv: Sequence[str]) -> None:
    """Runs the study that the flags name, together with the processes that they name."""
    del argv
    with streams.importing():
        from zsg_jax.workflows import diversity, selection, study

    # Libraries' running commentary would drown the study's own lines.
    logging.set_verbosity(logging.WARNING)
    config = cli.loaded_config(_CONFIG.value)
    file, _, preset = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    name = cli.study_name(file, preset)
    # A launcher's quotes keep the shell of another machine from it.
    check(_WORKDIR.value != "", "--workdir: is empty; leave it out, or give a folder")
    workdir = os.path.expanduser(_WORKDIR.value or Path("workdir") / name)
    if is_address(workdir):
        # A mistake in it is told before others are waited for.
        workdir = Store(workdir).address
    command = shlex.join(["python", "-m", "zsg_jax.main", *sys.argv[1:]])
    process = cluster.Process(_ADDRESS.value, _PROCESSES.value, _PROCESS.value)
    cluster.join(
        _DISTRIBUTED.value,
        process,
        initialization_timeout=_INITIALIZATION.value,
        heartbeat_timeout_seconds=_HEARTBEAT.value,
    )
    if not processes.is_first():
        cli.speaker = f"zsg_jax: process {processes.index()}"
    stopping.listen(
        cli.end_by,
        lambda: progress.say("told to stop: after the step at work, with a checkpoint"),
    )
    progress.pulse()
    try:
        kinds = {config_diversity.STUDY: diversity.run, config_selection.STUDY: selection.run}
        page = kinds.get(config.get("study"), study.run)(config, workdir, command=command)
    except stopping.Terminated as stop:
        if stop.everywhere:
            cluster.leave()
            if not processes.is_first():
                streams.end_now(128 + stopping.heard())
        raise
    if processes.is_first():
        if is_address(workdir):
            streams.show(f"report: {workdir}/report/index.html, here {page}")
        else:
            streams.show(f"report: {streams.near(page)}")


def _helped(config: ConfigDict | None, group: str) -> str:
    return config_help.told(
        config,
        group,
        "python -m zsg_jax.main",
        "Runs a study: arranges the training data, trains a model in each order, measures the test "
        "data as it goes and draws the comparison. Run again on its workdir, it goes on where it "
        f"was stopped. Packaged configs: {', '.join(cli.packaged_configs())}.",
        "--config tmta --config.seeds='(0,)' --config.training.steps=20 --workdir workdir/short",
        [one.name for one in _FLAGS],
    )


def run() -> None:
    """The command, with the flags of `sys.argv`."""
    parse = cli.parser(config_help.every_key(), _helped)
    app.run(cluster.ends_all(cli.guard(main)), flags_parser=parse)


if __name__ == "__main__":
    run()
