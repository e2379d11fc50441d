import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.address import States, check_encoder, read_states


def test_every_setting_is_read():
    given = "layer=3,pooling=last,tokens=answers,template=chat,truncation=head,length=64"
    read = read_states(f"states:w/runs/tmta-rt@7-seed0@12,{given}")
    run = "w/runs/tmta-rt@7-seed0@12"
    assert read == States(run, 3, "last", "answers", "chat", "head", 64)
    assert read_states("states:hub:a/b@v1") == States("hub:a/b@v1")


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
    ],
)
def test_what_means_nothing_is_refused_before_anything_is_opened(name, message):
    with pytest.raises(UserError, match=message):
        check_encoder(name)
