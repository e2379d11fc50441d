import errno
import fcntl
import json
import os
import signal
from pathlib import Path

import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import write_json
from zsg_jax.runtime.processes import once
from zsg_jax.runtime.shards import MANIFEST
from zsg_jax.workdir import claims, growing
from zsg_jax.workdir.claims import DIGESTS, claim_data, refuse_foreign
from zsg_jax.workdir.layout import CONFIG
from zsg_jax.workdir.lock import locked, refuse_address
from zsg_jax.workdir.manifest import check_whole, claimed

CONFIG_A = {"seeds": [0, 1], "training.batch_size": 16, "mesh.data": 1, "report.title": "a"}


def claim(workdir, config):
    claims.claim(workdir, config)
    growing.end(workdir)


def test_a_workdir_belongs_to_one_config(tmp_path):
    folder = tmp_path / "w"
    claim(folder, CONFIG_A)
    claim(folder, CONFIG_A)
    claim(folder, {**CONFIG_A, "mesh.data": 8, "data.workers": 3, "report.title": "b"})
    claim(folder, {**CONFIG_A, "training.profile_steps": [10, 13]})
    other = {**CONFIG_A, "seeds": [0], "training.batch_size": 8}
    (folder / "embeddings").mkdir()
    with pytest.raises(UserError) as caught:
        claim(folder, other)
    message = str(caught.value)
    assert "seeds is [0, 1] there, [0] here" in message
    assert "training.batch_size is 16 there, 8 here" in message
    assert "mesh" not in message
    assert "\n" not in message


def test_steps_may_be_added_where_they_change_none_that_were_taken(tmp_path):
    (tmp_path / "runs").mkdir()

    def config(steps, schedule="constant"):
        return {**CONFIG_A, "training.steps": steps, "training.schedule": schedule}

    for steps in (4, 4, 6, None):
        claim(tmp_path, config(steps))
    for other in (config(9), config(None, "cosine")):
        with pytest.raises(UserError, match=r"training\.(steps|schedule) is"):
            claim(tmp_path, other)
    (tmp_path / CONFIG).unlink()
    claim(tmp_path, config(4, "cosine"))
    with pytest.raises(UserError, match=r"training\.steps is 4 there, 6 here.*learning rate"):
        claim(tmp_path, config(6, "cosine"))
    # In one go with a constant rate they would be other steps as well.
    with pytest.raises(UserError, match=r"training\.schedule is 'cosine' there"):
        claim(tmp_path, config(6))


def test_metrics_may_be_added_and_how_they_are_measured_is_said_with_the_first(tmp_path):
    (tmp_path / "runs").mkdir()
    key = "evaluation.texts.decoding"

    def config(decoding, *metrics):
        return {**CONFIG_A, "evaluation.metrics": ["loss", *metrics], key: decoding}

    for one in (config("a"), config("b"), config("c", "choices"), config("d", "choices", "rouge")):
        claim(tmp_path, one)
    for other in (config("e", "choices", "rouge"), config("d", "rouge")):
        with pytest.raises(UserError, match=r"evaluation\.(texts\.decoding|metrics) is"):
            claim(tmp_path, other)
    claim(tmp_path, config("d", "choices", "rouge", "exact_match"))


def test_a_kill_while_a_config_grows_leaves_a_workdir_that_others_read(tmp_path, killed_at):
    grown = {**CONFIG_A, "seeds": [0, 1, 2]}

    def grow(folder):
        with claimed(folder, grown):
            pass

    for number in range(1, 99):
        folder = tmp_path / str(number)
        with claimed(folder, CONFIG_A):
            write_json(folder / "data.json", {})
            (folder / "runs").mkdir()
        died = killed_at(number, lambda folder=folder: grow(folder))
        check_whole(folder)
        if not died:
            break
        grow(folder)
        check_whole(folder)
    assert number > 2


def test_folders_that_are_not_ours_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=f"holds files but no {CONFIG}"):
        refuse_foreign(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        refuse_foreign(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (model := tmp_path / "model").mkdir()
    (model / CONFIG).write_text('{"model_type": "llama", "hidden_size": 64}')
    with pytest.raises(UserError, match=rf"its {CONFIG} is no study's"):
        refuse_foreign(model)


def test_a_first_try_that_made_nothing_binds_nobody(tmp_path):
    claim(tmp_path, CONFIG_A)
    claim_data(tmp_path, dict.fromkeys(DIGESTS, "a"))
    (tmp_path / "tokenizer").mkdir()
    other = {**CONFIG_A, "seeds": [5]}
    claim(tmp_path, other)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG]
    claim_data(tmp_path, dict.fromkeys(DIGESTS, "b"))
    claim(tmp_path, other)
    assert (tmp_path / "data.json").exists()


def refused_after(folder, config, work=lambda: None):
    """What a study does that is refused once it has claimed the workdir, and done some work."""

    def study():
        with claimed(folder, config):
            work()
            raise UserError("no")

    with pytest.raises(UserError, match="no"):
        study()


@pytest.mark.parametrize("made", [[], ["tokens"], ["embeddings", "arrangements"]])
def test_a_config_that_is_refused_binds_nobody(tmp_path, made):
    folder = tmp_path / "w"

    def work():
        claim_data(folder, dict.fromkeys(DIGESTS, "a"))
        for name in made:
            (folder / name).mkdir()

    refused_after(folder, CONFIG_A, work)
    refuse_foreign(folder)
    if not made:
        assert not list(folder.iterdir())
    # The same one goes on with what is there; another one has all but what tells what it is.
    with claimed(folder, CONFIG_A) as new:
        assert new
    refused_after(folder, CONFIG_A)
    with claimed(folder, {**CONFIG_A, "seeds": [5]}) as new:
        assert new
        kept = [name for name in made if name != "arrangements"]
        assert sorted(path.name for path in folder.iterdir()) == sorted([CONFIG, MANIFEST, *kept])
        (folder / "embeddings").mkdir(exist_ok=True)
    with pytest.raises(UserError, match="belongs to another config"):
        claim(folder, CONFIG_A)


def test_a_config_that_is_refused_once_something_is_trained_stays(tmp_path):
    def work():
        # Of cells nothing else is there until they end.
        (tmp_path / "runs" / "cell" / "state").mkdir(parents=True)
        (tmp_path / "runs" / "cell" / "state" / "state-0.safetensors").write_text("1")

    refused_after(tmp_path, CONFIG_A, work)
    refused_after(tmp_path, CONFIG_A)
    with pytest.raises(UserError, match="belongs to another config"):
        claim(tmp_path, {**CONFIG_A, "seeds": [5]})


def test_a_grown_config_that_is_refused_is_the_one_before_again(tmp_path):
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("1")
    with claimed(tmp_path, CONFIG_A):
        pass
    before = (tmp_path / CONFIG).read_bytes()
    grown = {**CONFIG_A, "seeds": [0, 1, 2]}
    refused_after(tmp_path, grown)
    assert (tmp_path / CONFIG).read_bytes() == before
    check_whole(tmp_path)
    refused_after(tmp_path, grown, lambda: (run / "metrics.jsonl").write_text("12"))
    with pytest.raises(UserError, match=r"seeds is \[0, 1, 2\] there"):
        claim(tmp_path, CONFIG_A)


def test_a_workdir_killed_while_it_was_made_is_still_ours(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / f"{CONFIG}.partial").write_text("{")
    refuse_foreign(tmp_path)
    refuse_foreign(tmp_path / "not there yet")
    claim(tmp_path, CONFIG_A)
    refuse_foreign(tmp_path)


def test_a_damaged_config_is_named(tmp_path):
    claim(tmp_path, CONFIG_A)
    for content in ("{", "[]", "3", "null", ""):
        (tmp_path / CONFIG).write_text(content)
        with pytest.raises(UserError, match=r"config\.json: is damaged"):
            claim(tmp_path, CONFIG_A)
    (tmp_path / CONFIG).unlink()
    (tmp_path / CONFIG).mkdir()
    with pytest.raises(UserError, match=r"config\.json: is damaged"):
        claim(tmp_path, CONFIG_A)


@pytest.mark.parametrize("error", [UserError("no"), KeyboardInterrupt(), ValueError("bug")])
def test_a_growth_that_is_stopped_before_it_made_anything_binds_nobody(tmp_path, error):
    folder = tmp_path / "w"
    with claimed(folder, CONFIG_A):
        (folder / "runs" / "a-seed0").mkdir(parents=True)
        (folder / "runs" / "a-seed0" / "metrics.jsonl").write_text("{}\n")
    before = (folder / CONFIG).read_bytes()
    grown = CONFIG_A | {"seeds": [0, 1, 2]}
    with pytest.raises(type(error)), claimed(folder, grown):
        raise error
    assert (folder / CONFIG).read_bytes() == before

    def trains():
        (folder / "runs" / "a-seed2").mkdir()
        (folder / "runs" / "a-seed2" / "metrics.jsonl").write_text("{}\n")
        raise error

    with pytest.raises(type(error)), claimed(folder, grown):
        trains()
    assert (folder / CONFIG).read_bytes() != before
    with pytest.raises(UserError, match="belongs to another config"), claimed(folder, CONFIG_A):
        pass


def test_a_growth_that_is_killed_before_it_made_anything_binds_nobody(tmp_path, killed_at):
    made = {"train_digest": "a"} | dict.fromkeys(DIGESTS, "a")
    grown, corrected = (CONFIG_A | {"seeds": [0, 1, seed]} for seed in (2, 3))

    def grow(folder):
        with claimed(folder, grown):
            claim_data(folder, made | {"reward_digest": "b"})
            for run in ("a-seed0", "a-seed2"):
                (folder / "runs" / run).mkdir(exist_ok=True)
                claims.of_runs(folder).begin(folder / "runs" / run)
            write_json(folder / "shown.jsonl", {})
            os.kill(os.getpid(), signal.SIGKILL)

    for number in range(1, 99):
        folder = tmp_path / str(number)
        with claimed(folder, CONFIG_A):
            claim_data(folder, made)
            (folder / "runs" / "a-seed0").mkdir(parents=True)
            (folder / "runs" / "a-seed0" / "metrics.jsonl").write_text("{}\n")
            claims.of_runs(folder).begin(folder / "runs" / "a-seed0")
        told = (folder / "runs" / "a-seed0" / "belongs.json").read_bytes()
        killed_at(number, lambda folder=folder: grow(folder))
        told_of_growth = json.loads((folder / "data.json").read_text()) != made
        check_whole(folder)
        for config in ((CONFIG_A, corrected), (corrected,), (grown,))[number % 3]:
            with claimed(folder, config):
                if config is not grown:
                    claim_data(folder, made)
                assert [one.read_bytes() for one in folder.glob("runs/*/belongs.json")] == [told]
            check_whole(folder)
            assert not (folder / "grows.json").exists()
        with pytest.raises(UserError, match="belongs to another config"):
            claim(folder, CONFIG_A)
        if (folder / "shown.jsonl").exists():
            break
    assert told_of_growth
    assert number > 4


def test_a_damaged_file_does_not_pass_for_what_was_there_before_a_growth(tmp_path):
    with claimed(tmp_path, CONFIG_A):
        claim_data(tmp_path, made := dict.fromkeys(DIGESTS, "a") | {"train_rows": 80})
        (tmp_path / "runs" / "a-seed0").mkdir(parents=True)
        (tmp_path / "runs" / "a-seed0" / "metrics.jsonl").write_text("{}\n")
    grown = CONFIG_A | {"seeds": [0, 1, 2]}
    write_json(tmp_path / "data.json", made | {"train_rows": 88})
    for config in (grown, CONFIG_A, grown):
        with pytest.raises(UserError, match=r"data\.json: is damaged"), claimed(tmp_path, config):
            pass
    write_json(tmp_path / "data.json", made)
    claims.claim(tmp_path, grown)  # and killed
    kept = json.loads((tmp_path / "grows.json").read_text())
    write_json(tmp_path / "grows.json", kept | {"data": made | {"train_rows": 88}})
    with pytest.raises(UserError, match=r"grows\.json: is damaged"), claimed(tmp_path, grown):
        pass
    (tmp_path / "grows.json").unlink()
    with claimed(tmp_path, grown):
        assert json.loads((tmp_path / "data.json").read_text()) == made


def test_inputs_that_changed_are_refused(tmp_path):
    facts = {key: key for key in DIGESTS} | {"train_rows": 3}
    claim_data(tmp_path, facts)
    claim_data(tmp_path, facts)
    for key, what in DIGESTS.items():
        with pytest.raises(UserError, match=f"{what} changed since"):
            claim_data(tmp_path, {**facts, key: "other"})
    # By another rule other rows of the same side may be scored.
    claim_data(tmp_path, facts | {"test_ids": ["a", "b"]})
    with pytest.raises(UserError, match="which test rows are scored changed since"):
        claim_data(tmp_path, facts | {"test_ids": ["a"]})
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged: it holds no train_digest"):
        claim_data(tmp_path, facts)


def test_a_workdir_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="cannot be written"),
        locked(tmp_path / "file" / "w"),
    ):
        pass


def test_two_processes_do_not_share_a_workdir(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(UserError, match="another process is at work there"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("locks", ["none", "deleted"])
def test_who_was_stopped_while_another_went_on_puts_nothing_in_place(tmp_path, monkeypatch, locks):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    if locks == "none":
        monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path), claimed(tmp_path, CONFIG_A):
        write_json(tmp_path / "data.json", {"a": 1})
        if locks == "deleted":
            (tmp_path / ".lock").unlink()
            write_json(tmp_path / "data.json", {"a": 2})
        with locked(tmp_path):
            before = (tmp_path / "data.json").read_bytes()
        gone_on = pytest.raises(
            UserError, match=r"another process \(\d+ on .*\) has gone on with it"
        )
        with gone_on:
            write_json(tmp_path / "data.json", {"a": 3})
        with gone_on:
            once("anything", lambda: None)
        assert (tmp_path / "data.json").read_bytes() == before


def moved_or_deleted():
    return pytest.raises(UserError, match="has been moved or deleted while")


def test_a_workdir_that_is_moved_or_deleted_is_not_made_anew(tmp_path):
    folder, elsewhere = tmp_path / "w", tmp_path / "elsewhere"
    with locked(folder), claimed(folder, CONFIG_A):
        write_json(folder / "data.json", {"a": 1})
        folder.rename(elsewhere)
        for work in (lambda: write_json(folder / "data.json", {}), lambda: once("x", dict)):
            with moved_or_deleted():
                work()
        assert not folder.exists()
        folder.mkdir()  # another lies there now
        with moved_or_deleted():
            once("y", dict)
    with locked(elsewhere), claimed(elsewhere, CONFIG_A):
        assert json.loads((elsewhere / "data.json").read_text()) == {"a": 1}
        (elsewhere / CONFIG).unlink()
        (elsewhere / ".lock").unlink()
        with moved_or_deleted():  # of what has been deleted a part was written anew
            once("z", dict)


def test_what_is_not_found_in_a_workdir_that_is_gone_is_not_what_is_told(tmp_path):
    with moved_or_deleted(), locked(tmp_path / "w"):
        (tmp_path / "w").rename(tmp_path / "elsewhere")
        (tmp_path / "w" / "runs").mkdir()


def test_nor_does_it_give_the_workdir_free(tmp_path):
    def work():
        (tmp_path / ".lock").unlink()
        with locked(tmp_path):
            claim(tmp_path, CONFIG_A)

    with locked(tmp_path):
        refused_after(tmp_path, CONFIG_A, work)
    assert (tmp_path / CONFIG).exists()


ADDRESSES = ["gs://bucket/study", "s3://bucket", "hdfs://host:80/a b", "gs:/bucket"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_no_workdir(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in (address, Path(address)):
        with pytest.raises(UserError, match=r"^--output \w+://.*: is no folder; mount the bucket"):
            refuse_address(given, "--output")
    with pytest.raises(UserError, match="mount the bucket"):
        refuse_foreign(Path(address))
    with pytest.raises(UserError, match="mount the bucket"), locked(Path(address)):
        pass
    assert list(tmp_path.iterdir()) == []
    for folder in ("study", "/mnt/gs", "a:b/c", "data/gs:1", str(tmp_path)):
        refuse_address(folder)
