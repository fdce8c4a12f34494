"""FNet: the transform, padding that is computed as any token and what that asks of batches, its tokenizer's folder."""

import dataclasses
import io

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax.data.packing import plan
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.models.fnet import Fnet, fnet
from bert_jax.nn.fourier import fourier
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.pretrained import load
from bert_jax.resolve import resolve
from bert_jax.tasks.pretraining import Pretraining
from bert_jax.text.tokenizer import load as load_tokenizer
from tests.interop.random_models import random_model

TINY = {"num_layers": 2, "width": 12, "mlp_width": 20, "max_length": 32}


def test_transform_by_hand():
    """The sum of its definition, at each place; both ways to compute it."""
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    wanted = np.zeros(x.shape)
    for k, m in np.ndindex(5, 6):
        for token, feature in np.ndindex(5, 6):
            wanted[:, k, m] += x[:, token, feature] * np.cos(2 * np.pi * (token * k / 5 + feature * m / 6))
    for kind in ("fft", "matmul"):
        np.testing.assert_allclose(fourier(jnp.asarray(x), kind, "float32"), wanted, atol=1e-5)


def test_matmul_stays_where_the_rows_are():
    """Over devices that split a batch the products exchange nothing, which is what they are there for."""
    mesh = jax.make_mesh((8,), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((8, 16, 12), jnp.float32, sharding=rows)
    program = jax.jit(lambda x: fourier(x, "matmul", "float32"), out_shardings=rows).lower(x).compile().as_text()
    assert "all-" not in program and "collective" not in program


def test_parameters_of_the_published_sizes():
    """Lee-Thorp et al. 2021, table 1: 83 and 238 million, with the heads of pre-training."""
    for size, millions in (("base", 83), ("large", 238)):
        model = Multitask(fnet(size, vocab_size=32000), {"mlm": Mlm(), "nsp": Nsp()})
        batch = {"tokens": jax.ShapeDtypeStruct((1, 8), jnp.int32)}
        shapes = jax.eval_shape(
            lambda batch, model=model: model.init(jax.random.key(0), batch, method="outputs"), batch
        )
        found = sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(shapes)))
        assert round(found / 1e6) == millions


@pytest.fixture(scope="module")
def encoder():
    """An encoder with parameters far from their initial values, as a function of a batch."""
    p = random_model({}, kind=Fnet, max_length=16)
    apply = jax.jit(p.model.encoder.apply)

    def hidden(**batch):
        return np.asarray(apply({"params": p.params["encoder"]}, jax.tree.map(jnp.asarray, batch)).hidden)

    return hidden


def test_padding_is_a_token(encoder):
    """A row does not depend on its `lengths` nor on the other rows, but on how far it is padded and with what."""
    tokens = np.random.default_rng(0).integers(5, 60, (2, 12)).astype(np.int32)
    plain, lengths = encoder(tokens=tokens), np.array([12, 7], np.int32)
    np.testing.assert_array_equal(encoder(tokens=tokens, lengths=lengths), plain)
    other = tokens.copy()
    other[0] = 9
    np.testing.assert_allclose(encoder(tokens=other)[1], plain[1], atol=1e-5)
    padded = tokens.copy()
    padded[1, 7:] = 4
    assert not np.allclose(encoder(tokens=padded)[1, :7], plain[1, :7], atol=0.1)
    assert not np.allclose(encoder(tokens=padded[:, :9])[1, :7], encoder(tokens=padded)[1, :7], atol=0.1)


@pytest.mark.parametrize("name", ["packing", "sequence_ids"])
def test_several_sequences_in_a_row(encoder, name):
    """They cannot be kept apart: an error, and no other result."""
    given = {"packing": plan(np.array([3, 2]), 8, 8), "sequence_ids": np.array([[1, 1, 2, 2, 2, 0, 0, 0]] * 2)}[name]
    with pytest.raises(ValueError, match=r'cannot keep several sequences in one apart.*set padding to "full"'):
        encoder(tokens=np.ones((2, 8), np.int32), lengths=np.array([3, 2], np.int32), **{name: given.astype(np.int32)})


def test_what_a_run_must_say(tiny_corpus):
    """Packed and trimmed batches, and data of another length than the encoder's, are refused before compilation: what
    is made of a text would depend on its batch, or its data."""
    experiment = Experiment(
        task=Pretraining(tiny_corpus, valid_limit=8),
        learner=Multitask(Fnet(**TINY), {"mlm": Mlm()}),
        steps=20,
        batch_size=8,
        eval_batch_size=8,
        padding="full",
    )
    length = resolve(experiment).train_source.max_length
    assert length == TINY["max_length"]
    for padding in ("packed", "trimmed"):
        with pytest.raises(ValueError, match=r'Fnet computes padding as any token.*set padding to "full"'):
            resolve(dataclasses.replace(experiment, padding=padding))
    longer = Multitask(Fnet(**TINY | {"max_length": 48}), {"mlm": Mlm()})
    with pytest.raises(
        ValueError, match=r"data has rows of 32 tokens, but Fnet .* rows of 48 .* both must be one length"
    ):
        resolve(dataclasses.replace(experiment, learner=longer))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer's folder as google/fnet-base has one: a BPE with <unk>, <s>, </s>, <pad> and then BERT's others."""
    texts = ["a low lower lowest day", "new days", "it rains again, lower and lower"] * 20
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="bpe", vocab_size=50, hard_vocab_limit=False,
        unk_id=0, bos_id=1, eos_id=2, pad_id=3, pad_piece="<pad>", control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        minloglevel=2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("fnet") / "tokenizer"
    path.mkdir()
    (path / "spiece.model").write_bytes(model.getvalue())
    return path


def test_tokenizer_of_the_released_model(folder):
    """Special tokens at their places; the ids are the library's, as the original takes them (f_net
    `input_pipeline.py`)."""
    tokenizer, library = load_tokenizer(folder), sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))
    special = tokenizer.unk_id, tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id
    assert special == (0, 3, 4, 5, 6)
    a, b = "lower days", "it rains"
    wanted = [4, *library.encode(a), 5, *library.encode(b), 5]
    pair = tokenizer.encode_pair(a, b, max_length=99)
    assert pair.ids.tolist() == wanted and pair.segments.tolist() == [0] * (2 + len(library.encode(a))) + [1] * (
        1 + len(library.encode(b))
    )


def test_predictions_of_a_text_are_its_own(folder, tmp_path):
    """Each text is computed in a row of `max_length`, full of <pad>: alone, beside a longer one, and as arrays; also
    after it was saved for others and opened again."""
    tokenizer = load_tokenizer(folder)
    p = random_model({"mlm": Mlm()}, kind=Fnet, tokenizer=tokenizer, vocab_size=tokenizer.vocab_size, max_length=24)
    short, long = "lower [MASK] days", "it rains again, [MASK] a low day"
    alone, together = p.fill_mask(short, top_k=3), p.fill_mask([long, short], top_k=3)[1]
    p.save(tmp_path / "saved")
    for other in (together, load(tmp_path / "saved").fill_mask(short, top_k=3)):
        assert [filling.token for filling in other[0]] == [filling.token for filling in alone[0]]
        np.testing.assert_allclose(
            [filling.probability for filling in other[0]], [filling.probability for filling in alone[0]], rtol=1e-5
        )
    ids = np.full((1, 24), tokenizer.pad_id)
    own = [4, *tokenizer.encode("lower ").ids, 6, *tokenizer.encode(" days").ids, 5]
    ids[0, : len(own)] = own
    shares = jax.nn.softmax(p(ids)["mlm_logits"][0, own.index(6)])
    np.testing.assert_allclose(np.sort(shares)[::-1][:3], [filling.probability for filling in alone[0]], rtol=1e-4)
