"""MPNet: random weights compute what PyTorch's do; so do its two streams, and its tokenizer's folder is theirs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from bert_jax.interop import names
from bert_jax.learners.mpnet import MaskedPermuted
from bert_jax.models.mpnet import Permuted, buckets, mpnet
from bert_jax.objectives.mlm import Mlm
from bert_jax.pretrained import load
from bert_jax.text.tokenizer import load as load_tokenizer
from bert_jax.text.wordpiece import WordPiece
from tests.interop.random_models import family_model
from tests.parity.pytorch import gradients, opened, with_own_scale
from tests.parity.test_family import assert_the_same, batches_of
from tests.parity.test_numbers import pretraining_labels

# Of each, fields that differ from those as released, and whether the decoder is tied.
CONFIGURATIONS = {
    "as released": ({}, True),
    "other": ({"vocab_size": 96, "width": 32, "num_heads": 4, "activation": "relu", "norm_epsilon": 1e-12}, True),
    "untied": ({"activation": "gelu_tanh"}, False),
}


def test_buckets():
    """Every distance from -520 to 520 is in the bucket that it is in there."""
    found = np.asarray(buckets(jnp.arange(521)[None]))[0]
    place = torch.arange(521)
    expected = MPNetEncoder.relative_position_bucket(place[None, :] - place[:, None]).numpy()
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) == 31  # a distance of 0 is on no side


@pytest.mark.parametrize(
    ("configuration", "length"), [("as released", 512), ("as released", 1), ("other", 17), ("untied", 128)]
)
def test_pretraining(compare, tmp_path, configuration, length):
    """Hidden states, logits, loss and all gradients of the masked LM, with padding; rows longer than the farthest
    distance that is told apart."""
    fields, tied = CONFIGURATIONS[configuration]
    p = family_model("mpnet", "MPNetForMaskedLM", **{"max_length": 512, "activation": "gelu"} | fields)
    epsilon = p.model.encoder.norm_epsilon
    p.model.objectives["mlm"] = Mlm(activation="gelu", norm_epsilon=epsilon, tied=tied)
    if not tied:
        shape = p.params["encoder"]["embeddings"]["words"]["table"].shape
        p.params["objectives_mlm"]["decoder"] = np.random.default_rng(1).normal(0, 0.2, shape).astype(np.float32)
    p.save(tmp_path / "saved")
    batch, inputs = batches_of("mpnet", p.model, length)
    labels, wanted = pretraining_labels(p.model, batch, batch["lengths"])
    model = opened(tmp_path / "saved", "MPNetForMaskedLM")
    assert_the_same(compare, p, model, batch, labels, inputs, wanted, "mlm_logits")


def test_the_size_of_base():
    """As many parameters as theirs has with the vocabulary and the positions of the released model."""
    encoder = mpnet("base", vocab_size=30527, pooler=True)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), {"tokens": jnp.ones((1, 2), int)})
    with torch.device("meta"):
        model = transformers.MPNetModel(transformers.MPNetConfig(max_position_embeddings=514))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == sum(x.numel() for x in model.parameters())


# ---- two streams -----------------------------------------------------------------------------------------------------


def seen_by_hand(given, predicted):
    """(content, query): which of `given` + `predicted` + `predicted` tokens each sees, row by row as in the figure of
    the original's `make_query_and_content_mask`."""
    content = [[1] * given + [0] * predicted + [1] * predicted] * given
    each = range(predicted)
    content += [[1] * given + [int(j <= i) for j in each] + [int(j > i) for j in each] for i in each]
    content += [[1] * given + [0] * predicted + [1] * predicted] * predicted
    query = [[1] * given + [int(j < i) for j in each] + [int(j >= i) for j in each] for i in each]
    return torch.tensor(content).bool(), torch.tensor(query).bool()


def attention(layer, x, c, bias, seen):
    """One stream through a layer of theirs: queries of `x`, keys and values of the content `c`."""
    own = layer.attention.attn
    heads = own.num_attention_heads

    def split(y):
        return y.view(-1, heads, own.attention_head_size).transpose(0, 1)

    scores = split(own.q(x)) @ split(own.k(c)).transpose(1, 2) / own.attention_head_size**0.5 + bias
    share = torch.softmax(scores.masked_fill(~seen, -torch.inf), -1)
    mixed = (share @ split(own.v(c))).transpose(0, 1).reshape(len(x), -1)
    x = layer.attention.LayerNorm(own.o(mixed) + x)
    return layer.output(layer.intermediate(x), x)


def logits_there(model, tokens, order, shown):
    """The original's `compute_mpnet` of one row, with the modules of theirs: `order` is the permutation of its columns,
    of which the last `len(shown)` are predicted."""
    count = len(shown)
    order, shown = torch.tensor(order), torch.tensor(shown)
    columns = torch.cat([order, order[-count:], order[-count:]])
    ids = torch.cat([torch.tensor(tokens)[order], shown, shown])
    x = model.mpnet.embeddings(input_ids=ids[None], position_ids=columns[None] + 2)[0]
    c, q = x[:-count], x[-count:]
    place, encoder = columns[:-count], model.mpnet.encoder
    bucket = encoder.relative_position_bucket(place[None, :] - place[:, None])
    bias = encoder.relative_attention_bias(bucket).permute(2, 0, 1)
    content, query = seen_by_hand(len(order) - count, count)
    for layer in encoder.layer:
        c, q = attention(layer, c, c, bias, content), attention(layer, q, c, bias[:, -count:], query)
    return model.lm_head(q), c


@pytest.mark.parametrize("whole_word", [False, True])
def test_two_streams(compare, tmp_path, whole_word):
    """Of a batch that is permuted and masked here: content states, predictions, loss and all gradients are those of the
    original's pre-training code, row by row without padding."""
    p = family_model("mpnet", "MPNetForMaskedLM", activation="gelu", norm_epsilon=1e-5)
    mlm = Mlm(7, rate=0.4, whole_word=whole_word, activation="gelu", norm_epsilon=1e-5)
    learner = MaskedPermuted(p.model.encoder, {"mlm": mlm}).for_vocabulary(67, (2, 3, 4))
    rng = np.random.default_rng(0)
    lengths = np.array([17, 9, 5, 2], np.int32)
    tokens = np.where(np.arange(17) < lengths[:, None], rng.integers(2, 67, (4, 17)), 1).astype(np.int32)
    batch = learner.corrupt(
        jax.random.key(0),
        3,
        {
            "tokens": jnp.asarray(tokens),
            "lengths": jnp.asarray(lengths),
            "continues": jnp.asarray(rng.random((4, 17)) < 0.5),
            "example": jnp.arange(4, dtype=jnp.uint32),
            "weight": jnp.ones(4),
        },
    )
    encoder = learner.encoder

    @jax.jit
    def compute(params):
        def loss(params):
            metrics = learner.apply({"params": params}, batch)
            return learner.loss_of(metrics)

        there = batch["mlm_weights"] > 0
        permuted = Permuted(batch["mlm_positions"], batch["mlm_shown"], there)
        rows = {name: batch[name] for name in ("tokens", "lengths")}
        encoded = encoder.apply({"params": params["encoder"]}, rows, False, permuted)
        return encoded.hidden, *jax.value_and_grad(loss)(params)

    hidden, loss, gradient = compute(jax.tree.map(jnp.asarray, p.params))
    p.save(tmp_path / "saved")
    model = opened(tmp_path / "saved", "MPNetForMaskedLM")
    total = 0
    counts = np.asarray(batch["mlm_weights"]).sum(1).astype(int)
    assert counts.tolist() == [7, 4, 2, 1]
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        predicted, shown = (np.array(batch[name][row, :count]) for name in ("mlm_positions", "mlm_shown"))
        order = np.concatenate([np.setdiff1d(np.arange(length), predicted), predicted])
        logits, content = logits_there(model, tokens[row], order, shown)
        wanted = torch.tensor(tokens[row, predicted]).long()
        total = total + torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
        compare("hidden", np.asarray(hidden)[row, order], content[:length].detach().numpy())
    total = total / counts.sum()
    total.backward()
    compare("loss", float(loss), total.item())
    found = names.from_params(gradient, encoder, {"mlm": mlm}, "huggingface")
    expected = gradients(model)
    assert np.abs(expected["mpnet.encoder.relative_attention_bias.weight"]).max() > 1e-3
    compare("gradients", with_own_scale(found), with_own_scale(expected))


# ---- tokenizer -------------------------------------------------------------------------------------------------------

WORDS = ["the", "cat", "##s", "sat", "on", "mat", ".", ",", "cafe", "a", "b", "##b", "北", "京"]
BRACKETED = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = ["The cats sat on the mat.", "", "Café, ABB  北京", "unknown [MASK] cats"]


@pytest.mark.parametrize("bracketed", [True, False])
def test_tokenizer(tmp_path, bracketed):
    """Texts and pairs have the ids of MPNetTokenizer on the folder that we wrote, and what it saves opens here as the
    same; a vocabulary as the released one, with BERT's special tokens among its pieces, of which the unknown one is
    used, and one without."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *(BRACKETED if bracketed else []), *WORDS, "<mask>"]
    ours = WordPiece(pieces)
    assert (ours.cls_id, ours.pad_id, ours.sep_id, ours.mask_id) == (0, 1, 2, len(pieces) - 1)
    assert ours.pieces[ours.unk_id] == ("[UNK]" if bracketed else "<unk>")
    ours.save(tmp_path / "ours")
    hers = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert type(hers).__name__ == "MPNetTokenizer" and len(hers) == ours.vocab_size
    assert (hers.pad_token_id, hers.mask_token_id, hers.unk_token_id) == (ours.pad_id, ours.mask_id, ours.unk_id)
    for a in TEXTS[: 4 if not bracketed else 3]:  # a special token in a text is none here
        assert hers(a)["input_ids"] == ours.encode_pair(a, max_length=99).ids.tolist(), a
        pair = ours.encode_pair(a, TEXTS[0], max_length=99)
        assert hers(a, TEXTS[0])["input_ids"] == pair.ids.tolist(), a
        assert not pair.segments.any()
    hers.save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs/vocab.txt").exists()
    again = load_tokenizer(tmp_path / "theirs")
    assert again.fingerprint == load_tokenizer(tmp_path / "ours").fingerprint == ours.fingerprint
    assert again.encode("unheard").ids.tolist() == [ours.unk_id]


def test_a_folder_with_its_tokenizer(tmp_path):
    """Model and tokenizer in one folder open there by the Auto classes and here, and fill a mask."""
    tokenizer = WordPiece(["<s>", "<pad>", "</s>", "<unk>", *BRACKETED, *WORDS, "<mask>"])
    fields = {"vocab_size": tokenizer.vocab_size, "activation": "gelu"}
    p = family_model("mpnet", "MPNetForMaskedLM", tokenizer=tokenizer, **fields)
    p.save(tmp_path / "saved")
    model = opened(tmp_path / "saved", "MPNetForMaskedLM")
    hers = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        logits = model(**hers("the <mask> sat .", return_tensors="pt")).logits[0, 2]
    likeliest = load(tmp_path / "saved").fill_mask("the [MASK] sat .", top_k=1)[0][0]
    assert likeliest.token == hers.convert_ids_to_tokens([int(logits.argmax())])[0]
    np.testing.assert_allclose(likeliest.probability, torch.softmax(logits, -1).max(), rtol=1e-5)
