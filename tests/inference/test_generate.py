"""Sampling with a cache: what is written is what the model would write without one, from its own distribution."""

import dataclasses
from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from bert_jax.inference import forward
from bert_jax.inference.generate import empty_cache, kept, next_scores
from bert_jax.models.bert import Bert
from bert_jax.models.tower import Tower, embeddings_of, encode
from bert_jax.nn.attention import SelfAttention
from bert_jax.objectives.causal_lm import CausalLm
from bert_jax.objectives.mlm import Mlm
from bert_jax.text.bpe import END_OF_TEXT
from bert_jax.text.training import train_bpe, train_wordpiece
from tests.interop.random_models import family_model, random_model

TEXT = ["low lower lowest new newest day days don't won't"] * 5
V = 276
PROMPTS = ["low lower lowest new", "", "days", "new low"]


class Elsewhere(Tower):
    """Causal, with its attention under another name than the cache has."""

    causal = True

    @nn.compact
    def __call__(self, batch, train=False):
        return encode(self, embeddings_of(self), ElsewhereLayer(self.num_heads, name="layers"), batch, train)


class ElsewhereLayer(nn.Module):
    num_heads: int

    @nn.compact
    def __call__(self, x, lengths, sequence_ids, train, token_index):
        mix = SelfAttention(self.num_heads, causal=True, name="mix")
        return x + mix(x, lengths, sequence_ids, train, token_index)


@pytest.fixture(scope="module")
def gpt2():
    tokenizer = train_bpe(TEXT, V, specials=(END_OF_TEXT,))
    return family_model("gpt2", "GPT2LMHeadModel", tokenizer, vocab_size=V, max_length=48)


@pytest.fixture(scope="module")
def left_to_right():
    """BERT's ablation: post-norm, a head with a transform, [CLS] and [SEP]."""
    tokenizer = train_wordpiece(TEXT, 40)
    return random_model({"lm": CausalLm()}, tokenizer=tokenizer, vocab_size=40, max_length=32, causal=True)


@pytest.fixture(params=["gpt2", "left_to_right", "looped"])
def opened(request, gpt2, left_to_right):
    if request.param != "looped":
        return {"gpt2": gpt2, "left_to_right": left_to_right}[request.param]
    encoder = gpt2.model.encoder.clone(scan=True)
    return dataclasses.replace(gpt2, model=gpt2.model.clone(encoder=encoder))


def test_logits_with_and_without_cache(opened):
    """Prompts of different lengths, then a token after the other: each time the scores of the whole row, computed
    anew. The places between a row's tokens and the longest prompt are overwritten."""
    rng = np.random.default_rng(0)
    lengths, new, length = np.array([7, 3, 5], np.int32), 6, 7
    tokens = rng.integers(1, opened.model.encoder.vocab_size, (3, 20), np.int32)  # no padding is left alone
    cache = empty_cache(opened.model.encoder, 3, length + new)
    model, step = opened.model.frozen(), jax.jit(next_scores, static_argnums=(0, 6))

    def whole(count):
        found = opened(tokens[:, : length + new], mask=np.arange(length + new) < count[:, None])["lm_logits"]
        return np.take_along_axis(np.asarray(found), (count - 1)[:, None, None], axis=1)[:, 0]

    found, cache = step(model, opened.params, cache, tokens[:, :length], jnp.zeros(3, int), jnp.asarray(lengths), "lm")
    np.testing.assert_allclose(found, whole(lengths), rtol=1e-5, atol=1e-5 * np.abs(found).max())
    for count in range(1, new + 1):
        start = lengths + count - 1
        own = np.take_along_axis(tokens, start[:, None], axis=1)
        found, cache = step(model, opened.params, cache, own, jnp.asarray(start), jnp.ones(3, int), "lm")
        np.testing.assert_allclose(found, whole(start + 1), rtol=1e-5, atol=1e-5 * np.abs(found).max())


def greedy_by_hand(opened, text, new):
    """The likeliest token after the other, each from the whole row before it."""
    tokenizer = opened.tokenizer
    ids = tokenizer.encode(text).ids.tolist()
    ids = [tokenizer.cls_id, *ids] if tokenizer.framed or not ids else ids
    for _ in range(new):
        row = np.zeros((1, opened.model.encoder.max_length), np.int32)  # one shape
        row[0, : len(ids)] = ids
        mask = np.arange(row.shape[1])[None] < len(ids)
        scores = opened(row, mask=mask)["lm_logits"][0, len(ids) - 1, : tokenizer.vocab_size]
        ids.append(int(np.argmax(scores)))
        if ids[-1] == tokenizer.sep_id:
            break
    return tokenizer.decode(ids)


def test_greedy(opened):
    """Of each prompt, whatever it is beside: what single rows give without a cache."""
    wanted = [greedy_by_hand(opened, text, 8) for text in PROMPTS]
    assert opened.generate(PROMPTS, 8, temperature=0.0) == wanted
    assert opened.generate(PROMPTS[0], 8, temperature=0.0) == wanted[0]
    assert opened.generate(PROMPTS[2:3], 8, temperature=0.7, top_k=1) == wanted[2:3]
    assert opened.generate([]) == []


def test_seeds(gpt2, monkeypatch):
    """The same seed gives the same texts, also in batches of another size; another seed and another place in the list
    give others."""
    texts = ["low"] * 12
    found = gpt2.generate(texts, 8, seed=3)
    assert len(set(found)) > 3 and found == gpt2.generate(texts, 8, seed=3)
    assert gpt2.generate(texts, 8, seed=4) != found
    monkeypatch.setattr(forward, "CPU_TOKENS", 16)  # 8 rows
    assert gpt2.generate(texts, 8, seed=3) == found
    assert gpt2.generate([*texts[:11], "new days"], 8, seed=3)[:11] == found[:11]
    assert gpt2.generate(texts, 8, seed=(1 << 32) - 1) != found


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 7, 1.0), (1.5, 9, 0.6)]
)
def test_frequencies(gpt2, monkeypatch, temperature, top_k, top_p):
    """Of 2,000 first tokens, those that the softmax of the scores gives, with what is cut off written out: no token
    that must not be drawn, and a chi-squared statistic that a right sampler exceeds once in a million."""
    flat = {"scale": np.full(36, 0.12, np.float32), "bias": np.zeros(36, np.float32)}  # no token has all the share
    opened = dataclasses.replace(gpt2, params={"encoder": {**gpt2.params["encoder"], "last_norm": flat}})
    ids = opened.tokenizer.encode("low").ids[None]
    scores = np.asarray(opened(ids)["lm_logits"][0, -1], np.float64) / temperature
    order = np.argsort(-scores)
    left = order[:top_k] if top_k else order
    shares = np.exp(scores[left] - scores[left].max())
    shares /= shares.sum()
    fewest = 1 + int(np.searchsorted(np.cumsum(shares), top_p))
    left, shares = left[:fewest], shares[:fewest] / shares[:fewest].sum()
    wanted = np.zeros(V)
    wanted[left] = shares

    monkeypatch.setattr(forward, "CPU_TOKENS", 1 << 16)  # all of them at once
    expected = Counter()  # by what shows: bytes that make no character look alike
    for i in np.flatnonzero(wanted):
        expected[opened.tokenizer.decode(np.append(ids, i))] += 2000 * wanted[i]
    found = Counter(opened.generate(["low"] * 2000, 1, temperature, top_k, top_p, seed=1))
    assert found.keys() <= expected.keys()
    statistic = sum((found[text] - count) ** 2 / count for text, count in expected.items())
    assert statistic < scipy.stats.chi2.ppf(1 - 1e-6, max(1, len(expected) - 1))


def test_hardly_any_temperature(gpt2):
    """The likeliest token, where quotients exceed what float32 holds."""
    assert gpt2.generate(PROMPTS, 6, temperature=1e-40) == gpt2.generate(PROMPTS, 6, temperature=0.0)


def test_what_is_kept():
    """By hand: of 0.5, 0.3, 0.15, 0.05 the fewest with at least a share, never none, equals together."""
    scores = jnp.log(jnp.array([[0.05, 0.5, 0.15, 0.3]]))
    for top_k, top_p, wanted in [
        (0, None, [0, 1, 2, 3]),
        (2, None, [1, 3]),
        (0, 0.81, [1, 2, 3]),
        (0, 0.79, [1, 3]),
        (0, 0.01, [1]),
        (2, 0.6, [1]),  # 0.5 is 0.625 of what the two have
    ]:
        found = kept(scores, top_k, None if top_p is None else jnp.float32(top_p))
        assert np.flatnonzero(np.isfinite(found[0])).tolist() == wanted
    assert np.isfinite(kept(jnp.array([[1.0, 2.0, 2.0, 0.0]]), 1, None)[0]).tolist() == [False, True, True, False]
    scores = np.random.default_rng(0).normal(0, 30, (9, 500)).astype(np.float32)
    for top_k in (1, 17, 499):
        least = np.sort(scores, axis=-1)[:, -top_k, None]
        np.testing.assert_array_equal(kept(jnp.asarray(scores), top_k, None), np.where(scores < least, -np.inf, scores))


def test_it_ends_where_the_model_ends_it(gpt2):
    """Nothing follows the end of a text, and it does not show; a row that has ended waits for the others."""
    words = gpt2.params["encoder"]["embeddings"]["words"]["table"]
    bias = 9.0 * words[V - 1]  # whatever comes before, the end is the likeliest
    norm = {"scale": np.zeros_like(bias), "bias": bias}
    opened = dataclasses.replace(gpt2, params={"encoder": {**gpt2.params["encoder"], "last_norm": norm}})
    assert opened.generate(PROMPTS, 9, temperature=0.0) == PROMPTS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0: must be at least 1"),
        ({"temperature": -1.0}, "temperature -1.0: must be at least 0"),
        ({"top_k": -1}, "top_k -1"),
        ({"top_p": 0.0}, "top_p 0.0: must be above 0"),
        ({"seed": 1 << 32}, "seed 4294967296: must be from 0"),
        ({"max_new_tokens": 48}, "input 0: 1 tokens and 48 new ones, but the model takes 48"),
    ],
)
def test_bad_arguments(gpt2, arguments, message):
    """Each is an error with its name, before anything is compiled."""
    with pytest.raises(ValueError, match=message):
        gpt2.generate("low", **arguments)


def test_what_cannot_generate():
    """A masked language model, and an encoder that sees what comes after."""
    tokenizer = train_wordpiece(TEXT, 40)
    with pytest.raises(ValueError, match="generate needs one head of the kind CausalLm"):
        random_model({"mlm": Mlm()}, tokenizer=tokenizer, vocab_size=40).generate("low")
    with pytest.raises(ValueError, match="attention of Elsewhere keeps no keys and values"):
        random_model({"lm": CausalLm()}, tokenizer=tokenizer, vocab_size=40, kind=Elsewhere).generate("low", 4)
    both_ways = random_model({"lm": CausalLm()}, tokenizer=tokenizer, vocab_size=40, kind=Bert)
    with pytest.raises(ValueError, match="needs an encoder that cannot see it"):
        both_ways.generate("low")
