import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.address import (
    Gradients,
    States,
    read_encoder,
    read_gradients,
    read_states,
)


def test_every_setting_is_read():
    given = "layer=3,pooling=last,tokens=answers,template=chat,truncation=head,length=64"
    read = read_states(f"states:w/runs/tmta-rt@7-seed0@12,{given}")
    run = "w/runs/tmta-rt@7-seed0@12"
    assert read == States(run, 3, "last", "answers", "chat", "head", 64)
    assert read_states("states:hub:a/b@v1") == States("hub:a/b@v1")
    given = "dimension=512,seed=3,weights=*/q/*,train=plain,template=chat,truncation=head,length=64"
    read = read_gradients(f"gradients:w/runs/tmta-rt@7-seed0@12,20,4,{given}")
    rest = (512, 3, "*/q/*", "plain", "chat", "head", 64)
    assert read == Gradients("w/runs/tmta-rt@7-seed0@12", (20, 4), *rest)
    assert read_gradients("gradients:hub:a/b@v1") == Gradients("hub:a/b@v1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("states:", "names no model"),
        ("states:a,layer", "'layer' must be KEY=VALUE"),
        ("states:a,layers=3", "'layers' is a key that nothing reads; did you mean layer"),
        ("states:a,layer=1,layer=2", "names layer twice"),
        ("states:a,layer=0", "layer=0 must be a whole number from 1"),
        ("states:a,length=-1", "length=-1 must be a whole number"),
        ("states:a,pooling=weigthed", "pooling=weigthed is unknown.*did you mean weighted"),
        ("states:a,tokens=loss", "tokens=loss is unknown; choose one of all, answers"),
        ("states:a,truncation=left", "truncation=left is unknown"),
        ("gradients:", "names no model"),
        ("gradients:a,20", "20 stands behind no RUN@STEP"),
        ("gradients:a@10,20,10", "names a step twice"),
        ("gradients:a@10,seed=1,20", "'20' must be KEY=VALUE"),
        ("gradients:a,dimension=0", "dimension=0 must be a whole number from 1"),
        ("gradients:a,seed=4294967296", "seed=4294967296 must be below"),
        ("gradients:a,train=adamw", "train=adamw is unknown.*did you mean adam"),
        ("gradients:a,layer=1", "'layer' is a key that nothing reads"),
    ],
)
def test_what_means_nothing_is_refused_before_anything_is_opened(name, message):
    with pytest.raises(UserError, match=message):
        read_encoder(name)
