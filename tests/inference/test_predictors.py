"""Each predictor against the model's own outputs, one text at a time and without padding."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

from bert_jax.inference import forward
from bert_jax.inference.inputs import BadInput
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.multilabel import MultiLabel
from bert_jax.objectives.regress import Regress
from bert_jax.objectives.span import Span
from bert_jax.objectives.tag import Tag
from bert_jax.pretrained import compute
from bert_jax.text.training import train_sentencepiece
from bert_jax.text.wordpiece import WordPiece
from tests.interop.random_models import random_model

WORDS = "the cat sat on a mat dog run ##ning ##s , . ? who where is john in paris 王".split()
TOKENIZER = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
SIZES = {"tokenizer": TOKENIZER, "vocab_size": TOKENIZER.vocab_size + 3, "max_length": 40}
TOLERANCE = 1e-5  # float32


def opened(**objectives):
    return random_model(objectives, **SIZES)


def texts_of(lengths, seed=0):
    """Texts of so many words, each of one token."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice([word for word in WORDS if word[0] != "#"], n)) for n in lengths]


def outputs(p, text, pair=None):
    """What the model computes of `[CLS] text [SEP] (pair [SEP])`, a row of its own."""
    encoding = p.tokenizer.encode_pair(text, pair, max_length=1000)
    return {name: np.asarray(value[0]) for name, value in p(encoding.ids[None], encoding.segments[None]).items()}


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.fixture
def compiled():
    """What was compiled since the test began, or was taken from the cache of compilations."""
    events = []

    def listen(event, *_, **__):
        if event.endswith("backend_compile_duration"):
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


# ---- embed -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder():
    return opened()


@pytest.mark.parametrize("layer", [0, 1, 2, -1, -2, -3])
def test_embedding_of_every_layer(encoder, layer):
    """Mean over all tokens with [CLS] and [SEP], and the state of [CLS]; 0 is the embeddings, -1 the last layer."""
    texts = texts_of((3, 20, 0))
    for pooling in ("mean", "cls"):
        found = encoder.embed(texts, pooling=pooling, layer=layer)
        assert found.shape == (3, 36) and found.dtype == np.float32
        for text, vector in zip(texts, found, strict=True):
            batch = {"tokens": encoder.tokenizer.encode_pair(text, max_length=99).ids[None]}
            inner = compute(encoder.model, encoder.params, batch, ("embeddings", "layers"))
            hidden = np.concatenate([inner["embeddings"][None], inner["layers"]])[layer, 0]
            close(vector, hidden.mean(axis=0) if pooling == "mean" else hidden[0])


def test_pooled_embedding(encoder):
    """What `p(...)` calls pooled; the last layer's mean is that of `hidden`."""
    found, mean = encoder.embed("the cat", pooling="pooled"), encoder.embed("the cat")
    assert found.shape == mean.shape == (36,)
    close(found, outputs(encoder, "the cat")["pooled"])
    close(mean, outputs(encoder, "the cat")["hidden"].mean(axis=0))


def test_normalised_embedding(encoder):
    """Of length 1, in the same direction."""
    plain, found = (encoder.embed(texts_of((3, 9)), normalise=normalise) for normalise in (False, True))
    close(found, plain / np.linalg.norm(plain, axis=1, keepdims=True))


def test_neither_order_nor_padding_nor_company_matters(encoder):
    """Two hundred texts of all lengths, in the order they came in, as each for itself."""
    texts = texts_of(np.random.default_rng(1).integers(0, 39, 200))
    found = encoder.embed(texts)
    for i in range(0, 200, 40):
        close(found[i], outputs(encoder, texts[i])["hidden"].mean(axis=0))
    close(encoder.embed(texts[::-1]), found[::-1])


def test_nothing_in(encoder):
    """An empty list gives an empty result of the right kind."""
    assert encoder.embed([]).shape == (0, 36)
    p = opened(mlm=Mlm())
    assert p.fill_mask([]) == p.pseudo_log_likelihood([]) == []
    assert opened(classify=Classify(2)).classify([]) == opened(tag=Tag(2)).tag([]) == []
    assert opened(span=Span()).answer([], []) == []


def test_each_length_is_compiled_once(compiled):
    """Lengths 16, 24, 32, 40: four compilations for texts of all lengths, and none for others afterwards."""
    p = opened(mlm=Mlm())
    before = forward.vectors._cache_size()
    p.embed(texts_of([*range(39)] * 2), pooling="cls")
    assert forward.vectors._cache_size() == before + 4
    p.fill_mask(["[MASK] cat", "the [MASK] is [MASK]"])
    p.pseudo_log_likelihood("the cat")
    assert compiled
    compiled.clear()
    p.embed(texts_of([*range(39)] * 3, seed=1), pooling="cls")
    p.embed("the dog", pooling="cls")
    p.fill_mask([*["the dog is [MASK]"] * 40, "[MASK] " * 6])
    p.pseudo_log_likelihood(texts_of((3, 14, 8)), normalise=True)
    dataclasses.replace(p, params=jax.device_put(p.params)).embed("a dog", pooling="cls")
    opened(mlm=Mlm()).embed("a dog", pooling="cls")  # the same architecture opened again
    assert compiled == []


# ---- fill_mask and pseudo_log_likelihood -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masked():
    p = opened(mlm=Mlm())
    # The three rows of the table behind the vocabulary are the likeliest: no text has them, none may be chosen.
    p.params["objectives_mlm"]["bias"][-3:] = 6.0
    return p


def by_hand(p, tokens):
    """Probabilities [L, V] for `[CLS] tokens [SEP]`."""
    ids = [p.tokenizer.cls_id, *(p.tokenizer.pieces.index(token) for token in tokens), p.tokenizer.sep_id]
    return softmax(np.asarray(p(np.array([ids], np.int32))["mlm_logits"][0]), axis=-1)


def test_fill_mask(masked):
    """One mask: the likeliest pieces with the probabilities that the model gives them, and the texts they make."""
    (fillings,) = masked.fill_mask("The cat [MASK] on a mat.", top_k=4)
    shares = by_hand(masked, ["the", "cat", "[MASK]", "on", "a", "mat", "."])[3]
    assert shares[-3:].sum() > 0.3
    likeliest = np.argsort(-shares[:-3])[:4]
    assert [filling.token for filling in fillings] == TOKENIZER.tokens(likeliest)
    close([filling.probability for filling in fillings], shares[likeliest])
    for token, _, text in fillings:
        assert text == ("The cat" + token[2:] if token.startswith("##") else f"The cat {token}") + " on a mat."


def test_several_masks(masked):
    """All hidden at once, each with candidates of its own; more than fit into a row; glued to letters or not."""
    text = "[MASK] cat[MASK] , [MASK] [MASK][MASK] on [MASK]."
    found = masked.fill_mask([text, "a [MASK]"], top_k=TOKENIZER.vocab_size)
    assert [len(masks) for masks in found] == [6, 1]
    tokens = ["[MASK]", "cat", "[MASK]", ",", *["[MASK]"] * 3, "on", "[MASK]", "."]
    shares = by_hand(masked, tokens)
    for place, fillings in zip((1, 3, 5, 6, 7, 9), found[0], strict=True):
        assert sorted(filling.token for filling in fillings) == sorted(TOKENIZER.pieces)
        close([f.probability for f in fillings], [shares[place, TOKENIZER.pieces.index(f.token)] for f in fillings])
    texts = {filling.token: filling.text for filling in found[0][1]}
    assert texts["dog"] == "[MASK] catdog , [MASK] [MASK][MASK] on [MASK]."
    assert texts["##s"] == "[MASK] cats , [MASK] [MASK][MASK] on [MASK]."
    assert texts["[SEP]"] == "[MASK] cat[SEP] , [MASK] [MASK][MASK] on [MASK]."
    assert {filling.token: filling.text for filling in found[1][0]}["##ning"] == "aning"


def test_pseudo_log_likelihood(masked):
    """The sum, over the tokens but [CLS] and [SEP], of the log probability of each while it alone is masked."""
    texts = ["The cat runs.", *texts_of((1, 20, 38))]
    found, per_token = (masked.pseudo_log_likelihood(texts, normalise=normalise) for normalise in (False, True))
    for text, score, mean in zip(texts, found, per_token, strict=True):
        ids = masked.tokenizer.encode_pair(text, max_length=99).ids
        rows = np.repeat(ids[None], len(ids) - 2, axis=0)
        places = np.arange(1, len(ids) - 1)
        rows[places - 1, places] = masked.tokenizer.mask_id
        logits = log_softmax(np.asarray(masked(rows)["mlm_logits"]), axis=-1)
        wanted = logits[places - 1, places, ids[places]].sum()
        close([score, mean], [wanted, wanted / len(places)])
    assert masked.pseudo_log_likelihood(texts[1]) == pytest.approx(found[1], rel=TOLERANCE)


# ---- classify and tag ------------------------------------------------------------------------------------------------


def test_classify():
    """Texts and pairs, alone and mixed: the softmax of the model's logits under the names of the classes."""
    p = opened(classify=Classify(3, labels=("no", "perhaps", "yes")))
    items = ["the cat", ("the cat", "a dog on a mat"), "", ("", "")]
    found = p.classify(items)
    for item, (label, probabilities) in zip(items, found, strict=True):
        wanted = softmax(outputs(p, *((item,) if isinstance(item, str) else item))["logits"])
        close(list(probabilities.values()), wanted)
        assert list(probabilities) == ["no", "perhaps", "yes"] and label == ["no", "perhaps", "yes"][wanted.argmax()]
    for item, wanted in zip(items[:2], found[:2], strict=True):
        single = p.classify(item)
        assert single.label == wanted.label
        close(list(single.probabilities.values()), list(wanted.probabilities.values()))


def test_classes_without_names():
    """Have the names that a saved checkpoint gives them."""
    assert list(opened(classify=Classify(2)).classify("a cat").probabilities) == ["LABEL_0", "LABEL_1"]


@pytest.fixture(scope="module")
def tagger():
    return opened(tag=Tag(3, labels=("O", "PER", "LOC")))


def test_tag_strings(tagger):
    """The class of the first piece of each word of the original text; punctuation stands for itself."""
    text = "Who's Running?  JOHN runs, 王."
    found = tagger.tag([text, ""])
    assert found[1] == []
    words = ["Who", "'", "s", "Running", "?", "JOHN", "runs", ",", "王", "."]
    assert [tagged.word for tagged in found[0]] == words
    assert all(text[tagged.start : tagged.end] == tagged.word for tagged in found[0])
    tokens = tagger.tokenizer.tokens(tagger.tokenizer.encode(text).ids)
    assert tokens == "who [UNK] [UNK] run ##ning ? john run ##s , 王 .".split()
    shares = softmax(outputs(tagger, text)["logits"], axis=-1)[[1, 2, 3, 4, 6, 7, 8, 10, 11, 12]]
    assert [tagged.label for tagged in found[0]] == [("O", "PER", "LOC")[i] for i in shares.argmax(axis=-1)]
    close([tagged.probability for tagged in found[0]], shares.max(axis=-1))
    assert tagger.tag(text)[3].start == 6


def test_tag_words(tagger):
    """One class for each word that is given, also for one of which the tokenizer leaves nothing."""
    words = ("john", "runs", "", "dog,")
    shares = softmax(np.asarray(tagger(np.array([[2, 21, 12, 14, 1, 11, 15, 3]]))["logits"][0]), axis=-1)[[1, 2, 4, 5]]
    assert TOKENIZER.tokens([21, 12, 14, 11, 15]) == ["john", "run", "##s", "dog", ","]
    found = tagger.tag(words)
    assert [tagged.word for tagged in found] == list(words)
    assert [tagged.label for tagged in found] == [("O", "PER", "LOC")[i] for i in shares.argmax(axis=-1)]
    close([tagged.probability for tagged in found], shares.max(axis=-1))
    assert {(tagged.start, tagged.end) for tagged in found} == {(None, None)}
    assert [[t.label for t in each] for each in tagger.tag([list(words), words])] == [[t.label for t in found]] * 2
    assert tagger.tag(()) == [] and tagger.tag([[]]) == [[]]


# ---- answer ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answerer():
    return opened(span=Span())


def spans_by_hand(p, question, context, max_answer_length, stride):
    """{(first, last token of the context): score}, a window after the other."""
    q, c = TOKENIZER.encode(question).ids.tolist(), TOKENIZER.encode(context).ids.tolist()
    room, start, scores = 40 - len(q) - 3, 0, {}
    while True:
        window = c[start : start + room]
        row = np.array([[2, *q, 3, *window, 3]])
        segments = np.array([[0] * (len(q) + 2) + [1] * (len(window) + 1)])
        logits = np.asarray(p(row, segments)["logits"][0])[len(q) + 2 :]
        for i in range(len(window)):
            for j in range(i, min(len(window), i + max_answer_length)):
                key, score = (start + i, start + j), float(logits[i, 0] + logits[j, 1])
                scores[key] = max(score, scores.get(key, -np.inf))
        if start + room >= len(c):
            return scores
        start += min(room, stride)


@pytest.mark.parametrize(("words", "longest", "stride"), [(10, 30, 128), (10, 3, 128), (100, 5, 7), (90, 30, 128)])
def test_answer(answerer, words, longest, stride):
    """All spans of the context that are short enough, those of a window each with its best score; none besides."""
    question = "Who runs?"
    context = " ".join(f"{word}  ".capitalize() for word in texts_of([words])[0].split())
    scores = spans_by_hand(answerer, question, context, longest, stride)
    found = answerer.answer(question, context, top_k=len(scores) + 9, max_answer_length=longest, stride=stride)
    assert len(found) == len(scores)
    offsets = TOKENIZER.encode(context).offsets
    by_place = {(offsets[i, 0], offsets[j, 1]): score for (i, j), score in scores.items()}
    close([a.score for a in found], [by_place[a.start, a.end] for a in found])
    assert [a.score for a in found] == sorted((a.score for a in found), reverse=True)
    close([a.probability for a in found], softmax([a.score for a in found]))
    assert all(a.text == context[a.start : a.end] for a in found)
    assert found[0].score == pytest.approx(max(scores.values()), rel=TOLERANCE)


def test_answers_to_many_questions(answerer):
    """A list for each, in order; one answer if no more are asked for."""
    questions, contexts = ["Who?", "Where is John?", "Who?"], ["A dog.", texts_of([60])[0], "王"]
    found = answerer.answer(questions, contexts)
    assert [len(answers) for answers in found] == [1, 1, 1]
    for question, context, answers in zip(questions, contexts, found, strict=True):
        assert answers[0].text == answerer.answer(question, context)[0].text
    assert found[2][0].text == "王" and found[2][0].probability == 1.0


@pytest.mark.parametrize("words", [10, 90])
def test_no_answer(answerer, words):
    """First where it scores above the best span by more than the threshold; its score is the lowest of the windows."""
    question, context = "Who runs?", texts_of([words])[0]
    spans = answerer.answer(question, context, top_k=3)
    q, c = TOKENIZER.encode(question).ids.tolist(), TOKENIZER.encode(context).ids.tolist()
    room, null = 40 - len(q) - 3, np.inf
    for start in range(0, words, room):  # the stride is longer than a window
        window = c[start : start + room]
        segments = np.array([[0] * (len(q) + 2) + [1] * (len(window) + 1)])
        logits = np.asarray(answerer(np.array([[2, *q, 3, *window, 3]]), segments)["logits"])
        null = min(null, float(logits[0, 0].sum()))
    above = null - spans[0].score
    found = answerer.answer(question, context, top_k=3, no_answer_threshold=above - 0.01)
    assert (found[0].text, found[0].start, found[0].end) == ("", 0, 0)
    close(found[0].score, null)
    assert [(a.text, a.score) for a in found[1:]] == [(a.text, a.score) for a in spans[:2]]
    close(found[0].probability / found[1].probability, np.exp(above))
    kept = answerer.answer(question, context, top_k=3, no_answer_threshold=above + 0.01)
    assert [(a.text, a.score) for a in kept] == [(a.text, a.score) for a in spans]
    assert kept[0].probability < spans[0].probability  # no answer has a share of it


# ---- regress, multilabel ---------------------------------------------------------------------------------------------


def test_a_number_for_each_text():
    """What `p(...)` calls logits, of texts and of pairs, in their order; a string gives a float."""
    p = opened(regress=Regress())
    texts = [*texts_of((3, 20, 1)), ("the cat", "a dog")]
    found = p.regress(texts)
    for text, value in zip(texts, found, strict=True):
        close(value, outputs(p, *([text] if isinstance(text, str) else text))["logits"][0])
    assert isinstance(found[0], float) and p.regress(texts[0]) == pytest.approx(found[0]) and p.regress([]) == []
    assert len(set(found)) == 4


def test_the_labels_of_each_text():
    """Every label by itself; those above one half, the likeliest first. None or all of them may apply."""
    names = ("news", "sport", "art")
    p = opened(multilabel=MultiLabel(3, labels=names))
    texts = [*texts_of(range(1, 12)), ("the cat", "a dog")]
    found = p.multilabel(texts)
    for text, labelled in zip(texts, found, strict=True):
        shares = expit(outputs(p, *([text] if isinstance(text, str) else text))["logits"])
        assert tuple(labelled.probabilities) == names
        close(list(labelled.probabilities.values()), shares)
        assert labelled.labels == [names[i] for i in np.argsort(-shares) if shares[i] >= 0.5]
    assert len({len(labelled.labels) for labelled in found}) > 1  # not the same for all
    assert p.multilabel(texts[0]).labels == found[0].labels
    assert set(opened(multilabel=MultiLabel(2)).multilabel("a").probabilities) == {"LABEL_0", "LABEL_1"}


@pytest.mark.parametrize(("method", "kind"), [("regress", "Regress"), ("multilabel", "MultiLabel")])
def test_each_wants_its_own_head(method, kind):
    """A classifier has logits too, of another meaning."""
    with pytest.raises(ValueError, match=rf"{method} needs one head of the kind {kind}, but the model has classify"):
        getattr(opened(classify=Classify(2)), method)("a cat")


# ---- SentencePiece ---------------------------------------------------------------------------------------------------


def test_sentencepiece():
    """Words of a string and pieces for a mask come without the space that is part of a token."""
    lines = ["The cat sat on the mat, a dog sat in the sun.", "Cats and dogs, cafés and the sun, then a sand."] * 5
    tokenizer = train_sentencepiece(lines, vocab_size=33, coverage=1.0)
    p = random_model({"tag": Tag(2), "mlm": Mlm()}, tokenizer=tokenizer, vocab_size=33, max_length=40)
    assert [t.word for t in p.tag("The cat, a dog")] == ["The", "cat,", "a", "dog"]
    assert [(t.start, t.end) for t in p.tag("The cat")] == [(0, 3), (4, 7)]
    texts = {filling.token: filling.text for filling in p.fill_mask("on [MASK]", top_k=33)[0]}
    starts = [token for token in texts if token.startswith("▁") and len(token) > 1]
    goes_on = [token for token in texts if tokenizer.continues[tokenizer.pieces.index(token)]]
    assert starts and all(texts[token] == f"on {token[1:]}" for token in starts)
    assert goes_on and all(texts[token] == f"on{token}" for token in goes_on)


# ---- bad input -------------------------------------------------------------------------------------------------------

ALL = {"mlm": Mlm(), "classify": Classify(2), "tag": Tag(2), "span": Span()}
LONG = "the cat " * 20


@pytest.mark.parametrize(
    ("call", "index", "message"),
    [
        (lambda p: p.embed(["a", LONG]), 1, r"42 tokens with \[CLS\] and \[SEP\], but the model takes 40: shorten"),
        (lambda p: p.embed(LONG), 0, r"'the cat the cat .*\.\.\.'"),
        (lambda p: p.fill_mask([f"{LONG[:-8]} [MASK] [MASK] [MASK]"]), 0, "43 tokens"),
        (lambda p: p.classify(["a", ("a " * 20, "a " * 18)]), 1, "41 tokens"),
        (lambda p: p.tag([LONG.split()]), 0, "42 tokens"),
        (lambda p: p.pseudo_log_likelihood(["a", "a", LONG]), 2, "42 tokens"),
        (lambda p: p.answer(["who?", "a " * 37], ["a", "a"]), 1, "the question has 37 tokens, which leaves no room"),
        (lambda p: p.answer("who?", " "), 0, "nothing to answer from in the context ' '"),
        (lambda p: p.fill_mask(["a [MASK]", "a MASK"]), 1, r"no \[MASK\] in 'a MASK'"),
        (lambda p: p.pseudo_log_likelihood(""), 0, "no tokens in ''"),
        (lambda p: p.classify([("a", "b", "c")]), 0, "a tuple of 3, expected a pair"),
        (lambda p: p.embed(["a", "\ud800"]), 1, r"lone surrogate U\+D800"),
    ],
)
def test_inputs_that_the_model_does_not_take(call, index, message, compiled):
    """Which one and why, before anything is compiled; nothing is cut."""
    with pytest.raises(BadInput, match=message) as error:
        call(opened(**ALL))
    assert error.value.index == index and str(error.value).startswith(f"input {index}: ")
    assert compiled == []


def test_the_longest_input_is_taken(encoder):
    """To the last row of the position table."""
    text = texts_of([38])[0]
    close(encoder.embed(text), outputs(encoder, text)["hidden"].mean(axis=0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.embed(3), "the input is int, expected str, or a list of these"),
        (lambda p: p.embed(("a", "b")), "the input is tuple, expected str"),
        (lambda p: p.embed(["a", None]), "input 1 is NoneType, expected str"),
        (lambda p: p.fill_mask([b"[MASK]"]), "input 0 is bytes, expected str"),
        (lambda p: p.classify([["a", "b"]]), "input 0 is list, expected str or tuple"),
        (lambda p: p.classify(("a", 1)), "input 0 holds int, expected str"),
        (lambda p: p.tag([["a", 1]]), "input 0 holds int, expected str"),
        (lambda p: p.answer("a", 1), "the input is int, expected str"),
    ],
)
def test_inputs_of_another_type(call, message):
    """Are named with what is wanted instead."""
    with pytest.raises(TypeError, match=message):
        call(opened(**ALL))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.embed("a", pooling="max"), "pooling 'max' is none of mean, cls, pooled"),
        (lambda p: p.embed("a", layer=3), "layer 3: there are 0, the embeddings, to 2"),
        (lambda p: p.embed("a", layer=-4), "layer -4"),
        (lambda p: p.embed("a", pooling="pooled", layer=1), "the pooler reads the last layer, 2, and not 1"),
        (lambda p: p.fill_mask("[MASK]", top_k=0), "top_k 0: 1 to 25"),
        (lambda p: p.fill_mask("[MASK]", top_k=26), "top_k 26"),
        (lambda p: p.answer("a", "a", top_k=0), "top_k 0: must be at least 1"),
        (lambda p: p.answer("a", "a", max_answer_length=0), "max_answer_length 0"),
        (lambda p: p.answer("a", "a", stride=0), "stride 0"),
        (lambda p: p.answer("a", ["a"]), "two lists of the same length"),
        (lambda p: p.answer(["a", "b"], ["a"]), "two lists of the same length"),
    ],
)
def test_options_out_of_range(call, message):
    """Are refused with what there is."""
    with pytest.raises(ValueError, match=message):
        call(opened(**ALL))


CALLS = {
    "Mlm": (lambda p: p.fill_mask([]), lambda p: p.pseudo_log_likelihood([])),
    "Classify": (lambda p: p.classify([]),),
    "Tag": (lambda p: p.tag([]),),
    "Span": (lambda p: p.answer([], []),),
}


@pytest.mark.parametrize("kind", CALLS)
def test_a_head_that_is_missing(kind):
    """Even with nothing to predict: what is needed, and what there is."""
    others = {name: head for name, head in ALL.items() if type(head).__name__ != kind}
    for call in CALLS[kind]:
        with pytest.raises(ValueError, match=f"needs one head of the kind {kind}, but the model has no head"):
            call(opened())
        with pytest.raises(ValueError, match=rf"kind {kind}, but the model has {next(iter(others))} \("):
            call(opened(**others))


def test_two_heads_of_a_kind():
    """Neither is taken."""
    with pytest.raises(ValueError, match=r"needs one head .* has mnli \(Classify\), sst2 \(Classify\)"):
        opened(mnli=Classify(3), sst2=Classify(2)).classify("a")


def test_nothing_to_read_text_with():
    """A checkpoint without a tokenizer, and one without weights; a model without a pooler or with a single segment."""
    p = opened(**ALL)
    for call in (lambda p: p.embed([]), *(call for calls in CALLS.values() for call in calls)):
        with pytest.raises(ValueError, match=r"needs a tokenizer, .* put its vocab\.txt"):
            call(dataclasses.replace(p, tokenizer=None))
        with pytest.raises(ValueError, match="without its weights"):
            call(dataclasses.replace(p, params=None))
    with pytest.raises(ValueError, match="needs a pooler"):
        random_model({}, pooler=False, **SIZES).embed("a", pooling="pooled")
    single = random_model({"classify": Classify(2), "span": Span()}, segment_types=1, **SIZES)
    assert single.classify("a cat")
    with pytest.raises(BadInput, match="a pair needs two segment types"):
        single.classify([("a", "cat")])
    with pytest.raises(BadInput, match="needs two segment types"):
        single.answer("a", "cat")


def test_results_are_plain():
    """Python's own numbers, which JSON takes."""
    (fillings,) = opened(mlm=Mlm()).fill_mask("[MASK]", top_k=1)
    assert type(fillings[0].probability) is float
    answer = opened(span=Span()).answer("who", "a cat")[0]
    assert [type(value) for value in answer] == [str, float, float, int, int]
    assert [type(value) for value in opened(tag=Tag(2)).tag("cat")[0]] == [str, str, float, int, int]
    assert type(opened(mlm=Mlm()).pseudo_log_likelihood("cat")) is float
