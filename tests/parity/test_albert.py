"""ALBERT: random weights compute what PyTorch's do, with one set of parameters for all layers and with several."""

import numpy as np
import pytest

from bert_jax.models.albert import Albert
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.sop import Sop
from tests.interop.random_models import random_model
from tests.parity.pytorch import opened, ours, theirs
from tests.parity.test_numbers import assert_parity, batches_of, pretraining_labels

# Of each, fields that differ from the defaults.
CONFIGURATIONS = {
    "as released": {"activation": "gelu_tanh"},
    "groups": {"activation": "gelu", "num_layers": 6, "num_groups": 3, "embedding_width": 20},
    "wide tables": {"activation": "relu", "vocab_size": 96, "width": 32, "num_heads": 4, "embedding_width": 56},
    "no pooler": {"activation": "gelu_tanh", "norm_epsilon": 1e-5, "embedding_width": 36, "pooler": False},
}


@pytest.mark.parametrize(
    ("configuration", "length"), [("as released", 512), ("groups", 17), ("wide tables", 1), ("no pooler", 128)]
)
def test_pretraining(compare, tmp_path, configuration, length):
    """Hidden states, pooled output, logits of both heads, loss and all gradients, with padding and segment ids; one
    configuration is of the masked LM alone and has a decoder of its own."""
    fields = CONFIGURATIONS[configuration]
    pooler = fields.get("pooler", True)
    p = random_model(
        {"mlm": Mlm(tied=pooler)} | ({"sop": Sop()} if pooler else {}), kind=Albert, max_length=512, **fields
    )
    p.save(tmp_path / "saved")
    model = opened(tmp_path / "saved", "AlbertForPreTraining" if pooler else "AlbertForMaskedLM")
    batch, inputs = batches_of(p.model, length)
    labels, wanted = pretraining_labels(p.model, batch, batch["lengths"])
    if pooler:
        pairs = np.array([1, 0, 0, 1])
        labels |= {"pair_label": pairs.astype(np.int32), "weight": np.ones(4, np.float32)}
        wanted["sentence_order_label"] = pairs
    assert_parity(compare, ours(p.model, p.params, batch | labels), theirs(model, inputs, wanted, "mlm_logits"))
