"""FNet: random weights compute what PyTorch's do, padding included, which neither of them masks."""

import numpy as np
import pytest

from bert_jax.models.fnet import Fnet
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from tests.interop.random_models import random_model
from tests.parity.pytorch import opened, ours, theirs
from tests.parity.test_numbers import assert_parity, pretraining_labels

# Of each, fields that differ from those as released, and whether the decoder is tied. "matmul" in float32 is the same.
CONFIGURATIONS = {
    "as released": ({}, True),
    "other": ({"vocab_size": 96, "width": 32, "activation": "gelu", "norm_epsilon": 1e-5}, False),
    "matmul": ({"fourier": "matmul", "width": 35}, True),
}


@pytest.mark.parametrize("length", (1, 17, 128, 512))
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_pretraining(compare, tmp_path, configuration, length):
    """Hidden states, those of padding as well, pooled output, logits of both heads, loss and all gradients; theirs
    gives the id of padding, 3, no gradient, so another one stands there."""
    fields, tied = CONFIGURATIONS[configuration]
    p = random_model({"mlm": Mlm(tied=tied), "nsp": Nsp()}, kind=Fnet, **{"max_length": 512} | fields)
    p.save(tmp_path / "saved")
    rng = np.random.default_rng(length)
    lengths = np.array([length, max(1, length * 2 // 3), length, max(1, length // 3)], np.int32)
    real = np.arange(length) < lengths[:, None]
    tokens = np.where(real, rng.integers(5, p.model.encoder.vocab_size, real.shape), 4).astype(np.int32)
    segments = rng.integers(0, 4, real.shape, np.int32)
    labels, wanted = pretraining_labels(p.model, {"tokens": tokens}, lengths)
    found = ours(p.model, p.params, {"tokens": tokens, "segments": segments, "lengths": lengths} | labels)
    model = opened(tmp_path / "saved", "FNetForPreTraining")
    inputs = {"input_ids": tokens, "token_type_ids": segments}
    assert_parity(compare, found, theirs(model, inputs, wanted, "mlm_logits"))
