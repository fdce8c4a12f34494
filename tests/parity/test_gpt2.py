"""GPT-2: random weights compute what PyTorch's do, with the loss over all tokens, and write the same tokens."""

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from bert_jax.objectives.causal_lm import CausalLm
from bert_jax.pretrained import load
from bert_jax.text.bpe import END_OF_TEXT
from bert_jax.text.tokenizer import load as load_tokenizer
from bert_jax.text.training import train_bpe
from tests.interop.random_models import family_model
from tests.parity.pytorch import opened, tensors
from tests.parity.test_family import assert_the_same, batches_of

WORDS = ["low lower lowest new newest day days don't won't Größe"] * 5
LENGTHS = (2, 17, 128, 512)
# Of each, fields that differ from the defaults.
CONFIGURATIONS = {
    "as released": {},
    "other": {"vocab_size": 96, "width": 32, "num_heads": 4, "activation": "relu", "norm_epsilon": 1e-3},
    "untied": {"activation": "gelu"},
}


def model_of(**fields):
    return family_model("gpt2", "GPT2LMHeadModel", **{"max_length": 512} | fields)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_pretraining(compare, tmp_path, configuration, length):
    """Hidden states, logits, loss and all gradients, with padding, which neither side predicts."""
    p = model_of(**CONFIGURATIONS[configuration])
    if configuration == "untied":
        p.model.objectives["lm"] = CausalLm(transform=False, tied=False)
        shape = p.model.encoder.vocab_size, p.model.encoder.width
        p.params["objectives_lm"] = {"decoder": np.random.default_rng(1).normal(0, 0.2, shape).astype(np.float32)}
    p.save(tmp_path / "saved")
    batch, inputs = batches_of("gpt2", p.model, length)
    labels = np.where(inputs["attention_mask"], inputs["input_ids"], -100)
    model = opened(tmp_path / "saved", "GPT2LMHeadModel")
    own = {"weight": np.ones(4, np.float32)}
    assert_the_same(compare, p, model, batch, own, inputs, {"labels": labels}, "lm_logits")
    again = load(tmp_path / "saved")
    assert again.model.objectives == p.model.objectives
    jax.tree.map(np.testing.assert_array_equal, again.params, p.params)


def test_a_folder_as_openai_s(compare, tmp_path):
    """The released folder has names without prefix, the triangle of the mask beside the kernels, and no feed-forward
    width."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 67, "n_layer": 2, "n_embd": 36, "n_head": 3, "n_positions": 17}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=66, eos_token_id=66)).eval()
    model.save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs/model.safetensors"
    held = {name.removeprefix("transformer."): value for name, value in load_file(file).items()}
    held["h.0.attn.bias"] = np.tri(17, dtype=np.float32)[None, None]
    save_file(held, file, {"format": "pt"})
    p = load(tmp_path / "theirs")
    assert p.model.encoder.mlp_width == 144 and not any("not used" in note for note in p.notes)
    tokens = np.random.default_rng(0).integers(0, 67, (2, 17))
    with torch.no_grad():
        expected = model(**tensors({"input_ids": tokens})).logits.numpy()
    compare("lm_logits", p(tokens)["lm_logits"], expected)


@pytest.mark.parametrize("prefix_space", [False, True])
def test_tokenizer(tmp_path, prefix_space):
    """A byte-level BPE that we trained gives the same ids there, without anything around a text; saved there, it opens
    here."""
    ours = train_bpe(WORDS, 285, prefix_space, specials=(END_OF_TEXT,))
    ours.save(tmp_path / "ours")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert isinstance(theirs, transformers.GPT2Tokenizer)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.sep_id, ours.sep_id) == (284, 284)
    for text in ("low lower lowest", " a  new\tday", "Größe, 北京 🙂!", "don't"):
        ids = theirs(text)["input_ids"]
        assert ids == ours.encode_pair(text, max_length=99).ids.tolist()
        assert ours.decode(ids) == theirs.decode(ids).removeprefix(" " if prefix_space else "")
        pair = ours.encode_pair(text, "new days", max_length=99).ids.tolist()
        assert pair == [*ids, 284, *theirs("new days")["input_ids"]]
    assert ours.encode_pair("", max_length=1).ids.tolist() == [284]
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_tokenizer(tmp_path / "theirs").fingerprint == ours.fingerprint


def test_greedy_generation(tmp_path):
    """Of prompts of different lengths, at once: what theirs writes of each."""
    tokenizer = train_bpe(WORDS, 285, specials=(END_OF_TEXT,))
    p = family_model("gpt2", "GPT2LMHeadModel", tokenizer, vocab_size=285, max_length=64)
    p.save(tmp_path / "saved")
    model = opened(tmp_path / "saved", "GPT2LMHeadModel")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    texts = ["low lower", "days", "new newest days don't", "Größe low"]
    wanted = []
    for text in texts:
        inputs = theirs(text, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=40, do_sample=False)[0]
        wanted.append(tokenizer.decode(ids.numpy()))
    assert load(tmp_path / "saved").generate(texts, 40, temperature=0.0) == wanted
