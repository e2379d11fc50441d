"""The command as a user types it: what it prints, where it ends, and how it refuses."""

from importlib import metadata
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
    "--config.model.pretraining.steps=0",
    "--config.model.size=tests/faults/one_layer.json",
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
    "key of the other study": (
        ["--config=diversity", "--config.arrangement.budget=3"],
        "--config.arrangement.budget: a key of another study than this one's",
    ),
    "other study's group": (
        ["--config=configs/tmta.py", "--config.grid.rules=(3,)"],
        "--config.grid.rules: a key of another study than this one's",
    ),
    "grid of nothing": (
        ["--config=diversity", "--config.grid.rules=(0,)"],
        "rules=0 must be at least 1",
    ),
    "key of nothing": (
        ["--config=configs/tmta.py", "--config.xyzzy=3"],
        "--config.xyzzy: a key that",
    ),
    "broken config": (
        ["--config=FOLDER/broken.py"],
        "the file cannot be loaded: ZeroDivisionError: di",
    ),
    "config of nothing": (
        ["--config=FOLDER/nothing.py"],
        "must return an ml_collections.ConfigDict",
    ),
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
    "unknown store": (
        ["--config=configs/tmta.py", "--workdir=hdfs://host/study"],
        "--workdir hdfs://host/study: is no folder, and of object",
    ),
}


def test_it_runs_resumes_and_refuses(commands, tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "nothing.py").write_text("def get_config():\n    return {'a': 1}\n")
    workdir = tmp_path / "w"
    study = [*SMALL, f"--workdir={workdir}"]
    wrong = [
        [flag.replace("--config=FOLDER", f"--config={tmp_path}") for flag in flags]
        + ([] if any("workdir" in flag for flag in flags) else [f"--workdir={tmp_path / 'x'}"])
        for flags, _ in MISTAKES.values()
    ]
    several = [study, study, [*study, "--config.training.steps=1"], ["--help"]]
    several += [["--version"], *wrong]
    first, again, other, helped, version, *refused = commands("zsg_jax.main", *several, cwd=ROOT)
    code, out, err = first
    assert code == 0, err
    assert out.startswith("report: ")
    page = ROOT / out.removeprefix("report: ").strip()
    assert "--config=configs/tmta.py" in page.read_text()
    assert page.samefile(workdir / "report" / "index.html")
    assert "\r" not in err  # no bars where there is no terminal
    assert again == (0, out, "")
    assert other[:2] == (1, "")
    assert "belongs to another config (training.steps is 2 there, 1 here)" in other[2]
    assert helped[0] == 0
    assert "training: batch_size=16" in helped[1]
    assert version[:2] == (0, f"zsg_jax {metadata.version('zsg_jax')}\n")
    for (name, (_, message)), (code, out, told) in zip(MISTAKES.items(), refused, strict=True):
        assert (name, code, out) == (name, 1, "")
        (line,) = told.splitlines()
        assert line.startswith("zsg_jax: ")
        assert message in line, name
    assert not (ROOT / "hdfs:").exists()
