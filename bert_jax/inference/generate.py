"""Text that a causal language model goes on with: what `pretrained.Pretrained.generate` does.

The prompts of a batch are read at once, padded on the right; then each step reads one token of each row, with the keys
and values of those before it from a cache (`nn.cache`), whose columns a row fills without a gap. Shapes are fixed, so a
batch is one compiled program; its loop ends early where all rows have ended.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from bert_jax.data.packing import padded_length, row_count
from bert_jax.inference import forward
from bert_jax.inference.inputs import BadInput, Opened, beginning, head_of, items_of, tokens_of
from bert_jax.inference.predictors import placed
from bert_jax.learners.multitask import Multitask
from bert_jax.nn.cache import CACHE, READ, new_cache, starting_at
from bert_jax.nn.dot import compute_dtype
from bert_jax.objectives.causal_lm import CausalLm

# As many times the rows of a batch that is read whole: a step reads one token of each, and all the weights for them.
MORE_ROWS = 8


def generate(
    opened: Opened,
    texts: Any,
    max_new_tokens: int = 100,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Any:
    """Each text with what follows it, one token drawn after the other, until the model ends it.

    Args:
        texts: a string, or a list of strings; the empty one stands for the beginning of any text.
        max_new_tokens: of each text, at most.
        temperature: what the logits are divided by; 0 takes the likeliest token every time.
        top_k: draw among so many of the likeliest tokens; 0 among all (openai/gpt-2 `src/sample.py`, whose defaults
            these are; the samples of Radford et al. 2019 are drawn with 40).
        top_p: draw among the fewest of the likeliest tokens that together have this probability at least (Holtzman et
            al. 2019, arXiv 1904.09751, section 3.1), of those that `top_k` leaves.
        seed: the same one gives the same text; what is drawn for a text depends on it, on the text's place in the list,
            and on the token's place, and not on what is beside it.

    Returns the text, as the tokenizer decodes it, prompt included; or a list of them.
    Raises TypeError or ValueError for bad input, a prompt and its new tokens that are more than the encoder takes, a
    missing tokenizer or head, an encoder that is not causal or keeps no keys and values.
    """
    items = items_of(texts, str)
    head = head_of(opened, CausalLm, "generate")
    encoder, tokenizer = opened.model.encoder, opened.tokenizer
    opened.model.objectives[head].check_encoder(encoder)
    _check(max_new_tokens, temperature, top_k, top_p, seed)
    prompts = []
    for i, text in enumerate(items):
        ids = tokens_of(opened, i, text).ids
        if tokenizer.framed or not len(ids):
            ids = np.concatenate([[tokenizer.cls_id], ids]).astype(np.int32)
        if len(ids) + max_new_tokens > encoder.max_length:
            reason = f"{len(ids)} tokens and {max_new_tokens} new ones, but the model takes {encoder.max_length}"
            raise BadInput(i, f"{reason}: shorten it or lower max_new_tokens ({beginning(text)})")
        prompts.append(ids)
    sampling = None if temperature == 0 else (jnp.float32(temperature), jnp.float32(top_p))
    cuts = top_k if top_k < tokenizer.vocab_size else 0, top_p < 1
    (model, params), found = placed(opened), []
    for batch in _batches(prompts, max_new_tokens, encoder.max_length):
        ends, pieces = tokenizer.sep_id, tokenizer.vocab_size
        written = _write(model, params, batch, sampling, np.uint32(seed), head, max_new_tokens, cuts, ends, pieces)
        found += list(np.asarray(written))
    whole = []
    for ids, new in zip(prompts, found, strict=False):  # the last rows of a batch may be of none
        end = np.flatnonzero(new == tokenizer.sep_id)
        whole.append(tokenizer.decode(np.concatenate([ids, new[: end[0] if len(end) else None]])))
    return whole[0] if isinstance(texts, str) else whole


def _check(max_new_tokens: int, temperature: float, top_k: int, top_p: float, seed: int) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens {max_new_tokens}: must be at least 1")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature {temperature}: must be at least 0, which takes the likeliest token")
    if top_k < 0:
        raise ValueError(f"top_k {top_k}: must be at least 0, which draws among all tokens")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p {top_p}: must be above 0 and at most 1, which draws among all tokens")
    if not 0 <= seed < 1 << 32:
        raise ValueError(f"seed {seed}: must be from 0 to 2**32 - 1")


def _batches(prompts: list[np.ndarray], new: int, longest: int):
    """Rows of prompts in their order: `tokens` [B, L], `lengths` [B], and `number` [B], their places in the list."""
    length = padded_length(max(map(len, prompts), default=1), longest)
    size = min(row_count(max(1, len(prompts))), MORE_ROWS * forward.batch_rows(min(length + new, longest)))
    for first in range(0, len(prompts), size):
        own = prompts[first : first + size]
        tokens, lengths = np.zeros((size, length), np.int32), np.ones(size, np.int32)
        for row, ids in enumerate(own):
            tokens[row, : len(ids)], lengths[row] = ids, len(ids)
        number = np.arange(first, first + size, dtype=np.uint32)
        yield {"tokens": tokens, "lengths": lengths, "number": number, "real": np.arange(size) < len(own)}


# ---- on the device ---------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(0, 5, 6, 7, 8, 9))
def _write(
    model: Multitask,
    params: Any,
    batch: dict[str, Array],
    sampling: tuple[Float[Array, ""], Float[Array, ""]] | None,
    seed: UInt32[Array, ""],
    head: str,
    new: int,
    cuts: tuple[int, bool],
    end: int,
    pieces: int,
) -> Int[Array, "B T"]:
    """The ids of the next `new` tokens of each row; from the first `end` on, nothing but that."""
    rows, length = batch["tokens"].shape
    keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(seed), number))(batch["number"])
    cache = empty_cache(model.encoder, rows, min(length + new, model.encoder.max_length))

    def draw(scores: Float[Array, "B V"], place: Int[Array, " B"]) -> Int[Array, " B"]:
        scores = scores[:, :pieces]  # rows behind these are of a padded table, and no pieces
        if sampling is None:
            return jnp.argmax(scores, axis=-1).astype(jnp.int32)
        # Behind the largest, and by no number below the smallest normal one: what overflows is what is never drawn.
        scores = scores - jnp.max(scores, axis=-1, keepdims=True)
        scores = scores / jnp.maximum(sampling[0], jnp.finfo(jnp.float32).tiny)
        scores = kept(scores, cuts[0], sampling[1] if cuts[1] else None)
        own = jax.vmap(jax.random.fold_in)(keys, place)
        return jax.vmap(jax.random.categorical)(own, scores).astype(jnp.int32)

    def step(state):
        count, tokens, ended, cache, written = state
        start = batch["lengths"] + count - 1  # of the token that was written last
        scores, cache = next_scores(model, params, cache, tokens[:, None], start, jnp.ones_like(start), head)
        return taken(count, draw(scores, start + 1), ended, cache, written)

    def taken(count, tokens, ended, cache, written):
        tokens = jnp.where(ended, end, tokens)
        return count + 1, tokens, ended | (tokens == end), cache, written.at[:, count].set(tokens)

    lengths = jnp.asarray(batch["lengths"])
    scores, cache = next_scores(model, params, cache, batch["tokens"], jnp.zeros_like(lengths), lengths, head)
    written = jnp.full((rows, new), end, jnp.int32)
    state = taken(jnp.int32(0), draw(scores, lengths), ~jnp.asarray(batch["real"]), cache, written)
    *_, written = jax.lax.while_loop(lambda state: (state[0] < new) & ~jnp.all(state[2]), step, state)
    return written


def empty_cache(encoder: Any, rows: int, columns: int) -> dict[str, Array]:
    """One for so many tokens of each row. What dots round their operands to is all that it keeps of them."""
    head_width = encoder.width // encoder.num_heads
    sizes = encoder.num_layers, rows, encoder.num_heads, columns, head_width
    return new_cache(*sizes, compute_dtype(encoder.dtype))


def next_scores(
    model: Multitask,
    params: Any,
    cache: dict[str, Array],
    tokens: Int[Array, "B L"],
    start: Int[Array, " B"],
    count: Int[Array, " B"],
    head: str,
) -> tuple[Float[Array, "B V"], dict[str, Array]]:
    """The scores of the token after the last of some new ones, and the cache with these.

    Args:
        cache: of the tokens before.
        tokens: the new ones, right-padded.
        start: the place in its row of the first of them.
        count: how many of them are real.
    """

    def method(model: Multitask) -> Array:
        positions = start[:, None] + jnp.arange(tokens.shape[1])
        positions = jnp.minimum(positions, model.encoder.max_length - 1)  # of padding
        encoded = model.encoder({"tokens": tokens, "positions": positions}, False)
        last = jnp.take_along_axis(encoded.hidden, (count - 1)[:, None, None], axis=1)
        return model.objectives[head].outputs(encoded._replace(hidden=last))["lm_logits"][:, 0]

    held = {"encoder": {"layers": {"attention": starting_at(cache, start)}}}
    scores, changed = model.apply({"params": params, CACHE: held}, method=method, mutable=[CACHE])
    after = dict(changed[CACHE]["encoder"]["layers"]["attention"])
    if after.pop(READ, None) is None:
        raise ValueError(
            f"the attention of {type(model.encoder).__name__} keeps no keys and values (nn.cache.joined, in a module "
            "'layers/attention'): it cannot generate"
        )
    return scores.astype(jnp.float32), after


def kept(scores: Float[Array, "B V"], top_k: int, top_p: Float[Array, ""] | None) -> Float[Array, "B V"]:
    """The scores of the tokens that may be drawn, -inf for the others; equals of the last one may be, too.

    top_k: 0 for all. top_p: None for all.
    """
    if top_k:
        scores = _above(scores, jnp.ones_like(scores), top_k)
    if top_p is not None:
        scores = _above(scores, jax.nn.softmax(scores, axis=-1), top_p)
    return scores


def _above(scores: Float[Array, "B V"], weights: Float[Array, "B V"], limit: Any) -> Float[Array, "B V"]:
    """The scores from the largest down, as long as the weights of those above are less than `limit` together.

    The last one is found bit by bit, in 32 sums: on a CPU a quarter of the time that sorting a vocabulary takes.
    """
    bits = jax.lax.bitcast_convert_type(scores, jnp.int32)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # whole numbers in the order of the scores

    def halve(_, bounds):
        low, high = bounds
        middle = (low & high) + ((low ^ high) >> 1)  # no sum that overflows
        less = jnp.sum(jnp.where(order > middle, weights, 0.0), axis=-1, keepdims=True) < limit
        return jnp.where(less, low, middle + 1), jnp.where(less, middle, high)

    ends = jnp.iinfo(jnp.int32)
    bounds = (jnp.full_like(order[:, :1], end) for end in (ends.min, ends.max))
    _, last = jax.lax.fori_loop(0, 32, halve, tuple(bounds))
    return jnp.where(order < last, -jnp.inf, scores)
