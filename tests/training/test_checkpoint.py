import jax
import numpy as np
import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.training.checkpoint import MANIFEST, Checkpoints

WHERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def state(value):
    return {
        "params": {
            "embed": {"embedding": jax.numpy.full((3, 4), value, jax.numpy.float32)},
            "norm": {"scale": jax.numpy.full((4,), value, jax.numpy.float32)},
        },
        "step": jax.numpy.asarray(value),
    }


ABSTRACT = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=WHERE), state(0)
)


@pytest.fixture
def two(tmp_path):
    kept = Checkpoints(tmp_path / "checkpoints")
    for step in (10, 20, 30):
        kept.save(step, state(step), {"step": step, "data": {"next_index": step}})
    return kept


def folders(path):
    return sorted(folder.name for folder in (path / "checkpoints").iterdir())


def test_the_newest_comes_back_with_its_position_and_few_are_kept(two, tmp_path):
    step, tree, position = two.restore(ABSTRACT)
    assert (step, int(tree["step"])) == (30, 30)
    assert (np.asarray(tree["params"]["embed"]["embedding"]) == 30).all()
    assert position == {"step": 30, "data": {"next_index": 30}}
    assert folders(tmp_path) == ["00000020", "00000030"]


def test_no_checkpoint_is_none(tmp_path):
    assert Checkpoints(tmp_path / "none").restore(ABSTRACT) is None


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def refused(kept, message):
    with pytest.raises(UserError, match=message) as caught:
        kept.whole()
    assert "\n" not in str(caught.value)


def test_where_a_file_is_damaged_or_missing_a_run_steps_back_and_nothing_else_does(
    two, tmp_path, capsys
):
    newest = tmp_path / "checkpoints" / "00000030"
    ended = Checkpoints(tmp_path / "checkpoints", end=30)
    damaged = f"{newest}: is damaged: .*; restore it, or name the one that is whole, .*00000020$"
    whole = {path: path.read_bytes() for path in files_of(newest)}
    assert len(whole) > 4
    for path, content in whole.items():
        path.unlink()
        if path.name == MANIFEST:  # as a checkpoint is while it is written
            assert two.whole().name == "00000020"
            refused(ended, "no whole checkpoint of step 30; kept are 20, to be named as .*00000020")
        else:
            refused(two, damaged)
            assert two.whole(20).name == "00000020"
        middle = len(content) // 2
        flipped = bytes(byte ^ 16 for byte in content[middle : middle + 1])
        harms = content[:middle] + flipped + content[middle + 1 :], content[:-2]
        for harm in harms if content else ():
            path.write_bytes(harm)
            refused(two, damaged)
            refused(ended, damaged)
        if path.name == MANIFEST:
            assert two.restore(ABSTRACT)[0] == 20
            assert f"{newest}: is damaged" in capsys.readouterr().err
        path.write_bytes(content)
    assert two.restore(ABSTRACT)[0] == 30


def test_an_unfinished_or_empty_folder_does_not_count(two, tmp_path, capsys):
    (tmp_path / "checkpoints" / "00000040").mkdir()
    assert two.restore(ABSTRACT)[0] == 30
    assert "was never finished" in capsys.readouterr().err
    two.save(40, state(40), {"step": 40})
    assert two.restore(ABSTRACT)[0] == 40


def test_unfinished_folders_do_not_count_as_spares(two, tmp_path):
    for name in ("00000025", "00000035", "00000040"):
        (tmp_path / "checkpoints" / name).mkdir()
    two.save(30, state(30), {"step": 30})
    assert folders(tmp_path) == ["00000020", "00000030"]
    assert two.restore(ABSTRACT)[0] == 30


def test_when_all_are_damaged_it_is_no_silent_restart(two, tmp_path):
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "position.json").write_text("{}")
    with pytest.raises(UserError, match=r"every checkpoint is damaged \(steps \[30, 20\]\)"):
        two.restore(ABSTRACT)


def test_a_manifest_that_is_not_whole_is_damage(two, tmp_path):
    for content in ("", "{}", "[]", "{"):
        (tmp_path / "checkpoints" / "00000030" / MANIFEST).write_text(content)
        assert two.restore(ABSTRACT)[0] == 20


def shaped(table, scale):
    shapes = {"embed": {"embedding": table}, "norm": {"scale": scale}}
    leaves = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32, sharding=WHERE),
        shapes,
        is_leaf=lambda one: isinstance(one, tuple),
    )
    return ABSTRACT | {"params": leaves}


@pytest.mark.parametrize("words", [2, 3, 7])
def test_a_vocabulary_with_other_padding_is_cut_or_filled_with_zeros(two, words):
    _, tree, _ = two.restore(shaped((words, 4), (4,)))
    expected = np.zeros((words, 4))
    expected[:3] = 30
    assert (np.asarray(tree["params"]["embed"]["embedding"]) == expected).all()


@pytest.mark.parametrize(
    ("table", "scale", "name"),
    [
        ((3, 3), (4,), r"embed/embedding has shape \(3, 4\), and \(3, 3\)"),
        ((3, 5), (4,), r"embed/embedding has shape \(3, 4\), and \(3, 5\)"),
        ((5, 4), (6,), r"norm/scale has shape \(4,\), and \(6,\)"),
        ((3, 4), (3,), r"norm/scale has shape \(4,\), and \(3,\)"),
        ((3, 4), (4, 1), r"norm/scale has shape \(4,\), and \(4, 1\)"),
    ],
)
def test_an_array_of_another_model_is_refused(two, table, scale, name):
    with pytest.raises(UserError, match=name):
        two.restore(shaped(table, scale))


@pytest.mark.parametrize("name", ["lr[3e-4]", "back\\slash", "a*?", "[!x]", "ünï 😀"])
def test_a_path_is_a_name_and_no_pattern(tmp_path, name):
    kept = Checkpoints(tmp_path / name / "checkpoints")
    for step in (1, 2, 3):
        kept.save(step, state(step), {"step": step})
    assert kept.restore(ABSTRACT)[0] == 3
    step, params = kept.parameters(2)
    assert (step, float(params["norm"]["scale"][0])) == (2, 2)


def test_a_first_checkpoint_that_cannot_be_read_ends_the_run(tmp_path, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    saved = ocp.save

    def half(path, tree, **options):
        saved(path, tree, **options)
        for file in files_of(path):
            if "METADATA" in file.name.upper():
                file.write_bytes(b"{}")

    monkeypatch.setattr(ocp, "save", half)
    with pytest.raises(UserError, match=r"checkpoints/00000001: "):
        Checkpoints(tmp_path / "checkpoints").save(1, state(1), {"step": 1})
