"""The command as a user types it: what it prints, where it ends, and how it refuses."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMALL = [
    "--config=configs/tmta.py",
    "--config.seeds=(0,)",
    "--config.arrangement.methods=('tmta-nft',)",
    "--config.data.rewrites.rules=4",
    "--config.data.rewrites.samples=4",
    "--config.data.rewrites.test_rules=2",
    "--config.training.steps=2",
    "--config.model.size=tests/faults/one_layer.json",
]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "zsg_jax.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        check=False,
    )


def test_it_runs_resumes_and_refuses_another_config(tmp_path):
    workdir = tmp_path / "w"
    first = command(*SMALL, f"--workdir={workdir}")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("report: ")
    assert (ROOT / first.stdout.removeprefix("report: ").strip()).exists()
    assert "\r" not in first.stderr  # no bars where there is no terminal
    assert "--config=configs/tmta.py" in (workdir / "report" / "index.html").read_text()

    again = command(*SMALL, f"--workdir={workdir}")
    assert (again.returncode, again.stderr, again.stdout) == (0, "", first.stdout)

    other = command(*SMALL, f"--workdir={workdir}", "--config.training.steps=1")
    assert other.returncode == 1
    assert other.stderr.splitlines() == [
        f"zsg_jax: --workdir {workdir}: belongs to another config (training.steps is 2 there, "
        "1 here); give another --workdir, or the config it was made with"
    ]


MISTAKES = {
    "no config": ([], "--config is missing"),
    "no such config": (["--config=configs/nope.py"], "configs/nope.py: no such file"),
    "unknown preset": (["--config=configs/tmta.py:p4"], "no preset 'p4'"),
    "unknown key": (
        ["--config=configs/tmta.py", "--config.training.batchsize=3"],
        "--config.training.batchsize: a key that nothing reads; did you mean training.batch_size?",
    ),
    "unknown group": (
        ["--config=configs/tmta.py", "--config.trainin.batch_size=3"],
        "did you mean training.batch_size?",
    ),
    "key of nothing": (
        ["--config=configs/tmta.py", "--config.xyzzy=3"],
        "--config.xyzzy: a key that",
    ),
    "broken config": (["--config=broken.py"], "the file cannot be loaded: ZeroDivisionError: di"),
    "config of nothing": (["--config=nothing.py"], "must return an ml_collections.ConfigDict"),
    "not a number": (
        ["--config=configs/tmta.py", "--config.training.batch_size=many"],
        "--config.training.batch_size=many",
    ),
    "half a place": (
        ["--config=configs/tmta.py", "--num_processes=2", "--process_id=0"],
        "--coordinator_address: missing; --coordinator_address, --num_processes and",
    ),
    "no port": (
        [
            "--config=configs/tmta.py",
            "--coordinator_address=host:many",
            "--num_processes=2",
            "--process_id=0",
        ],
        "--coordinator_address=host:many: is no HOST:PORT",
    ),
    "process of no number": (["--config=configs/tmta.py", "--process_id=first"], "--process_id"),
    "unknown flag": (["--workdri=x"], "--workdri: unknown flag; did you mean --workdir?"),
    "stray argument": (["--config=configs/tmta.py", "p3"], "'p3': unknown argument"),
    "bad value": (
        ["--config=configs/tmta.py", "--config.data.bad_rows=drop"],
        "choose one of refuse, skip",
    ),
    "missing file": (
        ["--config=configs/tmta.py", "--config.data.train=nope.jsonl", "--config.data.test=x"],
        "nope.jsonl: no such file",
    ),
}


def test_a_mistake_is_one_line_and_exit_code_1(commands, tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "nothing.py").write_text("def get_config():\n    return {'a': 1}\n")
    several = [
        [
            argument.replace("--config=", f"--config={tmp_path}/")
            if name in ("broken config", "config of nothing")
            else argument
            for argument in arguments
        ]
        + [f"--workdir={tmp_path / 'w'}"]
        for name, (arguments, _) in MISTAKES.items()
    ]
    ran = commands("zsg_jax.main", *several, cwd=ROOT)
    for (name, (_, message)), (code, out, told) in zip(MISTAKES.items(), ran, strict=True):
        assert (name, code, out) == (name, 1, "")
        (line,) = told.splitlines()
        assert line.startswith("zsg_jax: ")
        assert message in line, name


def test_an_unknown_store_is_no_workdir_and_help_is_no_mistake(commands):
    bucket = ["--config=configs/tmta.py", "--workdir=hdfs://host/study"]
    (code, _, told), (right, shown, _) = commands("zsg_jax.main", bucket, ["--help"], cwd=ROOT)
    assert code == 1
    (line,) = told.splitlines()
    assert line.startswith("zsg_jax: --workdir hdfs://host/study: is no folder, and of object")
    assert not (ROOT / "hdfs:").exists()
    assert right == 0
    assert "USAGE" in shown
