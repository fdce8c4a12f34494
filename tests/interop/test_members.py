"""The other members of the family in Hugging Face's layout: what is written opens as it was, and what cannot be said is
said."""

import json

import flax.linen as nn
import jax
import numpy as np
import pytest
import safetensors.numpy

from bert_jax.interop import names
from bert_jax.models.albert import Albert
from bert_jax.models.distilbert import DistilBert
from bert_jax.models.roberta import Roberta
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.pretrained import Pretrained, load
from tests.interop.random_models import FAMILY, FAMILY_CLASSES, family_model, random_batch, random_model

# Of one layer, as `state_dict()` of their class lists them (V 67, L 17, D 36, F 52).
NAMES = {
    "RobertaForMaskedLM": {
        "roberta.embeddings.position_embeddings.weight": (19, 36),
        "roberta.embeddings.token_type_embeddings.weight": (1, 36),
        "roberta.encoder.layer.0.attention.self.key.weight": (36, 36),
        "lm_head.dense.weight": (36, 36),
        "lm_head.layer_norm.weight": (36,),
        "lm_head.bias": (67,),
    },
    "RobertaForSequenceClassification": {"classifier.dense.weight": (36, 36), "classifier.out_proj.weight": (3, 36)},
    "DistilBertForMaskedLM": {
        "distilbert.embeddings.position_embeddings.weight": (17, 36),
        "distilbert.transformer.layer.0.attention.q_lin.weight": (36, 36),
        "distilbert.transformer.layer.0.attention.out_lin.bias": (36,),
        "distilbert.transformer.layer.0.sa_layer_norm.bias": (36,),
        "distilbert.transformer.layer.0.ffn.lin1.weight": (52, 36),
        "distilbert.transformer.layer.0.output_layer_norm.weight": (36,),
        "vocab_transform.weight": (36, 36),
        "vocab_layer_norm.bias": (36,),
        "vocab_projector.bias": (67,),
    },
    "GPT2LMHeadModel": {
        "transformer.wpe.weight": (17, 36),
        "transformer.h.0.attn.c_attn.weight": (36, 108),
        "transformer.h.0.attn.c_proj.weight": (36, 36),
        "transformer.h.0.mlp.c_fc.weight": (36, 52),
        "transformer.h.0.mlp.c_proj.weight": (52, 36),
        "transformer.ln_f.bias": (36,),
    },
    "GPT2ForSequenceClassification": {"score.weight": (3, 36)},
    "ElectraForPreTraining": {
        "electra.embeddings.LayerNorm.weight": (128,),
        "electra.embeddings_project.weight": (36, 128),
        "electra.encoder.layer.0.attention.self.key.weight": (36, 36),
        "discriminator_predictions.dense.weight": (36, 36),
        "discriminator_predictions.dense_prediction.weight": (1, 36),
    },
    "ElectraForMaskedLM": {"generator_predictions.dense.weight": (128, 36), "generator_lm_head.bias": (67,)},
    "XLNetLMHeadModel": {
        "transformer.word_embedding.weight": (67, 36),
        "transformer.mask_emb": (1, 1, 36),
        "transformer.layer.0.rel_attn.q": (36, 3, 12),
        "transformer.layer.0.rel_attn.o": (36, 3, 12),
        "transformer.layer.0.rel_attn.r": (36, 3, 12),
        "transformer.layer.0.rel_attn.r_w_bias": (3, 12),
        "transformer.layer.0.rel_attn.seg_embed": (2, 3, 12),
        "transformer.layer.0.rel_attn.layer_norm.weight": (36,),
        "transformer.layer.0.ff.layer_1.weight": (52, 36),
        "transformer.layer.0.ff.layer_norm.bias": (36,),
        "lm_loss.bias": (67,),
    },
    "XLNetForSequenceClassification": {"sequence_summary.summary.weight": (36, 36), "logits_proj.weight": (3, 36)},
    "ModernBertForMaskedLM": {
        "model.embeddings.tok_embeddings.weight": (67, 36),
        "model.layers.0.attn.Wqkv.weight": (108, 36),
        "model.layers.1.attn_norm.weight": (36,),
        "model.layers.1.mlp.Wi.weight": (104, 36),
        "model.final_norm.weight": (36,),
        "head.norm.weight": (36,),
        "decoder.bias": (67,),
    },
    "AlbertForPreTraining": {
        "albert.embeddings.word_embeddings.weight": (67, 128),
        "albert.embeddings.position_embeddings.weight": (17, 128),
        "albert.embeddings.LayerNorm.weight": (128,),
        "albert.encoder.embedding_hidden_mapping_in.weight": (36, 128),
        "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.key.weight": (36, 36),
        "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.LayerNorm.bias": (36,),
        "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight": (52, 36),
        "albert.encoder.albert_layer_groups.0.albert_layers.0.full_layer_layer_norm.weight": (36,),
        "albert.pooler.weight": (36, 36),
        "predictions.dense.weight": (128, 36),
        "predictions.bias": (67,),
        "sop_classifier.classifier.weight": (2, 36),
    },
    "DistilBertForSequenceClassification": {"pre_classifier.weight": (36, 36), "classifier.weight": (3, 36)},
}


@pytest.mark.parametrize(("member", "name"), FAMILY_CLASSES)
def test_saved_and_loaded(tmp_path, member, name):
    """Encoder, heads, parameters and outputs come back exactly; the folder names its class; the tensors are theirs."""
    p = family_model(member, name, activation="gelu", dropout=0.1)
    p.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert (config["model_type"], config["architectures"]) == (member, [name])
    positions = "n_positions" if member in ("gpt2", "xlnet") else "max_position_embeddings"
    assert config[positions] == {"roberta": 19, "mpnet": 19}.get(member, 17)
    assert again.model.encoder == p.model.encoder and again.labels == p.labels
    assert list(again.model.objectives) == list(p.model.objectives)
    for head, was in p.model.objectives.items():
        for field in ("dropout", "hidden", "tied", "activation"):
            assert getattr(again.model.objectives[head], field, 0) == getattr(was, field, 0)
    assert jax.tree.structure(again.params) == jax.tree.structure(p.params)
    jax.tree.map(np.testing.assert_array_equal, again.params, p.params)
    held = safetensors.numpy.load_file(tmp_path / "saved/model.safetensors")
    found = {tensor: value.shape for tensor, value in held.items()}
    assert NAMES.get(name, {}).items() <= found.items()
    if name.endswith("Model"):
        assert not any(tensor.startswith(member) for tensor in held)
    batch = random_batch(p.model.clone(encoder=p.model.encoder.clone(segment_types=1)), [17, 3], 17)
    outputs = again(**batch)
    for key, value in p(**batch).items():
        np.testing.assert_array_equal(outputs[key], value)


@pytest.mark.parametrize(
    ("kind", "heads", "fields", "message"),
    [
        (Roberta, {"mlm": Mlm(activation="relu")}, {}, "activation is 'relu' in the head 'mlm'.*roberta"),
        (Roberta, {"nsp": Nsp()}, {"pooler": True}, "no class of transformers has the heads nsp"),
        (Roberta, {"classify": Classify(3)}, {"pooler": True}, "'classify' .* has no counterpart"),
        (DistilBert, {"classify": Classify(3, hidden="tanh")}, {}, "'classify' .* has no counterpart"),
        (DistilBert, {}, {"norm_epsilon": 1e-5}, "norm_epsilon is 1e-05, and their distilbert has no other"),
    ],
)
def test_what_cannot_be_saved(tmp_path, kind, heads, fields, message):
    """What their classes have not, is an error and leaves no folder."""
    p = random_model({}, kind=kind, **fields)
    model = p.model.clone(objectives=heads)
    params = nn.unbox(
        model.init(jax.random.key(0), {"tokens": jax.numpy.ones((1, 2), int)}, method="outputs")["params"]
    )
    with pytest.raises(ValueError, match=message):
        Pretrained(model, params, None).save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [Albert, Roberta, DistilBert])
def test_the_original_is_bert(tmp_path, kind):
    """Google's layout has none of the others."""
    with pytest.raises(ValueError, match=f"the original is BERT, and bert_config.json has no {kind.__name__}"):
        random_model({}, kind=kind).save(tmp_path / "saved", format="google")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pad_token_id": 0}, "pad_token_id 0 is not supported, only 1"),
        ({"max_position_embeddings": 2}, "max_position_embeddings is 2, of which 2 are of no token"),
        ({"is_decoder": True}, "is_decoder True is not supported"),
    ],
)
def test_bad_config(tmp_path, fields, message):
    """A configuration that positions cannot be counted from, is refused with its file."""
    family_model("roberta", "RobertaModel").save(tmp_path / "saved")
    file = tmp_path / "saved/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        load(tmp_path / "saved")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inner_group_num": 2}, "inner_group_num 2 is not supported, only 1"),
        ({"num_hidden_layers": 5, "num_hidden_groups": 2}, "num_layers 5 is not a multiple of num_groups 2"),
        ({"classifier_dropout_prob": 2}, "classifier_dropout_prob is 2, expected a number from 0, below 1"),
    ],
)
def test_bad_config_of_albert(tmp_path, fields, message):
    """What its layers cannot be, is refused with its file."""
    family_model("albert", "AlbertModel").save(tmp_path / "saved")
    file = tmp_path / "saved/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(ValueError, match=f"saved.*: {message}"):
        load(tmp_path / "saved")


def test_an_encoder_of_ones_own():
    """It has no names elsewhere, and the error says which encoders have."""

    class Own(nn.Module):
        pass

    with pytest.raises(ValueError, match=r"the encoder Own has no counterpart .* only Bert, DistilBert, Roberta"):
        list(names.parameters(Own(), {}))
    assert set(FAMILY) >= {"roberta", "distilbert"}
