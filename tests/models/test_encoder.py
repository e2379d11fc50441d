import jax
import numpy as np
import pytest

from zsg_jax.models import encoder, huggingface
from zsg_jax.runtime.errors import UserError

pytestmark = pytest.mark.references

SMALL = {
    "family": "bert",
    "type_vocab_size": 2,
    "vocab_size": 31,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_layers": 2,
    "num_heads": 3,
    "max_positions": 16,
}


forward = jax.jit(encoder.apply, static_argnums=0)


def make():
    graphdef, shapes = encoder.abstract(encoder.EncoderConfig(**SMALL))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: np.asarray(rng.normal(size=s.shape) * 0.3, np.float32), shapes)
    return graphdef, params


def test_hidden_states_equal_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=31,
            hidden_size=12,
            intermediate_size=20,
            num_hidden_layers=11,  # "10" comes before "2" where keys are sorted
            num_attention_heads=3,
            max_position_embeddings=16,
            type_vocab_size=3,
            layer_norm_eps=1e-3,
            initializer_range=0.5,
        )
    ).eval()
    for parameter in theirs.parameters():  # biases and norms start at 0 and 1, which hides them
        torch.nn.init.normal_(parameter, 0.1, 0.4)
    theirs.save_pretrained(tmp_path)
    config = huggingface.read_encoder_config(tmp_path)
    assert (config.num_layers, config.layer_norm_eps, config.type_vocab_size) == (11, 1e-3, 3)

    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 31, (3, 9)).astype(np.int32)
    types = rng.integers(0, 3, (3, 9)).astype(np.int32)
    mask = np.arange(9) < np.array([[9], [4], [1]])
    with torch.no_grad():
        expected = theirs(
            torch.tensor(tokens).long(),
            attention_mask=torch.tensor(mask).long(),
            token_type_ids=torch.tensor(types).long(),
        ).last_hidden_state.numpy()
    graphdef, _ = encoder.abstract(config)
    params = huggingface.load_encoder(tmp_path, config)
    hidden = forward(graphdef, params, tokens, mask, types)
    assert hidden.dtype == np.float32
    np.testing.assert_allclose(hidden[mask], expected[mask], atol=1e-4)
    assert np.abs(expected).max() > 0.5


def test_padding_changes_no_token_and_types_default_to_zero():
    graphdef, params = make()
    tokens = np.random.default_rng(0).integers(0, 31, (2, 5)).astype(np.int32)
    alone = forward(graphdef, params, tokens, np.ones((2, 5), bool), np.zeros_like(tokens))
    padded = np.pad(tokens, ((0, 0), (0, 4)), constant_values=3)
    mask = np.broadcast_to(np.arange(9) < 5, (2, 9)).astype(np.int32)
    np.testing.assert_allclose(forward(graphdef, params, padded, mask)[:, :5], alone, atol=1e-5)


def test_a_row_of_padding_gives_no_nan():
    graphdef, params = make()
    assert np.isfinite(forward(graphdef, params, np.zeros((1, 4), int), np.zeros((1, 4)))).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "hidden_size=12 is no multiple of num_heads=5"),
        ({"num_layers": 1.5}, "num_layers=1.5; give a whole number"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps=0.0"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        encoder.EncoderConfig(**SMALL | changes)
