"""What a run has trained, read as its export is."""

import json

import pytest

import zsg_jax
from zsg_jax.arrangement.spaces import open_encoder
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.views import conversations
from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import export, study

RUN = "tmta-nft-seed0"
TOLD = [
    conversations("both")(Instance("", "", (Turn("user", text), Turn("assistant", "aab")), ()))
    for text in ("Replace a by b: aab", "bb", "a")
]


def test_a_run_gives_what_its_exported_folder_does_at_every_step_that_is_kept(finished, tmp_path):
    run = finished / "runs" / RUN
    steps = sorted(int(path.name) for path in (run / "checkpoints").iterdir())
    found = {}
    for step in steps:
        out = tmp_path / str(step)
        export.run(export.ExportOptions(finished, RUN, out, step=step))
        found[step] = open_encoder(f"states:{run}@{step}", tmp_path).encode(TOLD)
        assert (found[step] == open_encoder(f"states:{out}", tmp_path).encode(TOLD)).all()
        below = run / "checkpoints" / f"{step:08d}"
        assert (found[step] == open_encoder(f"states:{below}", tmp_path).encode(TOLD)).all()
    newest = open_encoder(f"states:{run}", tmp_path)
    assert (newest.encode(TOLD) == found[steps[-1]]).all()
    assert (found[steps[0]] != found[steps[-1]]).any()
    assert newest.name.startswith(f"states:{RUN}@{steps[-1]},layer=")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (f"runs/{RUN}@3", r"no whole checkpoint of step 3; kept are"),
        ("runs/tmta-nft-seed1", "has tmta-nft-seed0; did you mean tmta-nft-seed0"),
        ("", f"is the workdir of a study; give one of its runs: .*{RUN}"),
        ("nowhere", "no such folder"),
    ],
)
def test_what_is_no_run_is_refused(finished, tmp_path, named, message):
    with pytest.raises(UserError, match=message) as caught:
        open_encoder(f"states:{finished / named}", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_study_is_arranged_in_the_space_of_another_ones_run(finished, small_config, tmp_path):
    name = f"states:{finished / 'runs' / RUN},layer=1,tokens=answers"
    config = small_config(**{"similarity.encoder": name, "training.steps": 1})
    study.run(config, tmp_path / "w", command="test")
    facts, hashed = (
        json.loads((work / "arrangements" / "tmta-nft" / "arrangement.json").read_text())[
            "provenance"
        ]
        for work in (tmp_path / "w", finished)
    )
    assert facts["encoder"].endswith("layer=1,pooling=weighted,tokens=answers")
    assert facts["encoder_digest"] != hashed["encoder_digest"]


def test_rows_in_memory_are_arranged_in_it(finished, tmp_path):
    name = f"states:{finished / 'runs' / RUN}"
    train = [{"prompt": f"say {i}", "completion": "ab" * (i + 1)} for i in range(8)]
    test = [{"prompt": "say 3", "completion": "ab" * 4}]
    found = zsg_jax.arrange_data(train, test, encoder=name, method="min-nft")
    assert found.order[0] == 3
    again = zsg_jax.arrange_data(
        train, test, encoder=name, method="min-nft", cache=tmp_path / "cache"
    )
    assert (again.order == found.order).all()
    with pytest.raises(UserError, match="pooling=max is unknown"):
        zsg_jax.arrange_data(train, test, encoder=f"{name},pooling=max")
