"""XLM-R's tokenizer: a SentencePiece model under other ids, from its file or from the library's."""

# ruff: noqa: RUF001 (the letters of many scripts look alike)

import io
import json

import numpy as np
import pytest
import sentencepiece

from bert_jax.text import fairseq_sentencepiece
from bert_jax.text.fairseq_sentencepiece import FairseqSentencePiece
from bert_jax.text.sentencepiece import SentencePiece
from bert_jax.text.tokenizer import load
from bert_jax.text.training import count_spaced, fairseq_sentencepiece_of_counts

SCRIPTS = [
    "The cat sat on the mat, a dog sat.",
    "Größe und Straße über alles",
    "Кошка сидела на ковре и собака",
    "北京是中国的首都和城市",
    "東京は日本の首都です",
    "서울은 한국의 수도이다",
    "القطة جلست على السجادة",
    "החתול ישב על השטיח",
    "बिल्ली चटाई पर बैठी थी",
    "แมวนั่งบนเสื่อ",
    "Η γάτα κάθισε στο χαλί",
    "কুকুর মাদুরে বসেছিল",
]


def trained(**options):
    """The bytes of a model that the library trains with its own ids, as XLM-R's was."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SCRIPTS * 4),
        model_writer=model,
        **{"vocab_size": 150, "minloglevel": 2, "character_coverage": 1.0} | options,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def tokenizer():
    return FairseqSentencePiece(trained())


def test_ids_are_fairseqs(tokenizer):
    """Four special tokens first, each piece one further than in the model, the mask behind the last."""
    library = sentencepiece.SentencePieceProcessor(model_proto=trained())
    assert tokenizer.pieces[:4] == ("<s>", "<pad>", "</s>", "<unk>") and tokenizer.vocab_size == 152
    ids = tokenizer.cls_id, tokenizer.pad_id, tokenizer.sep_id, tokenizer.unk_id, tokenizer.mask_id
    assert ids == (0, 1, 2, 3, 151)
    assert [tokenizer.pieces[i + 1] for i in range(3, 150)] == [library.id_to_piece(i) for i in range(3, 150)]
    for text in SCRIPTS:
        found, there = tokenizer.encode(text).ids, library.encode(text)
        assert found.tolist() == [i + 1 for i in there]
        np.testing.assert_array_equal(tokenizer.encode_batch([text])[0], found)
        assert tokenizer.decode(found) == library.decode(there) == text
    unknown = tokenizer.encode("the 😀")
    assert unknown.ids[-1] == 3 and unknown.ids.dtype == np.int32
    assert tokenizer.decode(unknown.ids).endswith("⁇ ")


def test_no_text_is_a_special_token(tokenizer):
    """Their names inside a text are pieces like any other."""
    assert not {0, 1, 2, 151} & set(tokenizer.encode("<s> <mask> </s> <pad>").ids.tolist())


def test_words_and_pairs(tokenizer):
    """A piece without the mark of a space continues its word; special tokens do not; pairs have two separators."""
    continues = tokenizer.continues[tokenizer.encode("cat dog").ids]
    pieces = tokenizer.tokens(tokenizer.encode("cat dog").ids)
    assert continues.tolist() == [not piece.startswith("▁") for piece in pieces] and continues.sum() >= 4
    assert not tokenizer.continues[[0, 1, 2, 3, 151]].any()
    pair = tokenizer.encode_pair("cat", "dog", max_length=20)
    assert (pair.ids == 2).sum() == 3 and not pair.segments.any()


def test_trained_here(tmp_path):
    """A vocabulary of exactly so many pieces, special tokens included; capitals are kept; it is opened as it was."""
    ours = fairseq_sentencepiece_of_counts(count_spaced(SCRIPTS * 4), 150, coverage=1.0)
    assert type(ours) is FairseqSentencePiece and ours.vocab_size == 150
    assert (ours.cls_id, ours.pad_id, ours.mask_id) == (0, 1, 149)
    assert ours.decode(ours.encode(SCRIPTS[0]).ids) == SCRIPTS[0]
    with pytest.raises(ValueError, match=r"vocab_size 999, of which <pad> and <mask> .* of 997 pieces"):
        fairseq_sentencepiece_of_counts(count_spaced(SCRIPTS), 999)
    ours.save(tmp_path)
    assert load(tmp_path).fingerprint == ours.fingerprint


def library_file(tokenizer, **changes):
    """What transformers 5 writes of it, in short."""
    scores = [0.0] * 4 + tokenizer._library.get_score(list(range(3, 150))) + [0.0]
    split = [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}]
    return {
        "model": {"type": "Unigram", "unk_id": 3, "vocab": list(zip(tokenizer.pieces, scores, strict=True))},
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": split},
    } | changes


def test_from_the_file_of_the_library(tmp_path):
    """Of `tokenizer.json` a model is made that is the same tokenizer; saved, it is a model file, and still the same."""
    ours = FairseqSentencePiece(trained(normalization_rule_name="identity"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(library_file(ours)))
    found = load(tmp_path)
    assert type(found) is FairseqSentencePiece and found.fingerprint == ours.fingerprint
    for text in SCRIPTS:
        np.testing.assert_array_equal(found.encode(text).ids, ours.encode(text).ids)
    found.save(tmp_path / "saved")
    assert sorted(file.name for file in (tmp_path / "saved").iterdir()) == [
        "sentencepiece.bpe.model",
        "tokenizer_config.json",
    ]
    assert load(tmp_path / "saved").fingerprint == ours.fingerprint


def test_fingerprints_differ():
    """Of models with the same pieces that treat characters or spaces otherwise."""
    options = {}, {"normalization_rule_name": "identity"}, {"add_dummy_prefix": False}
    options += ({"remove_extra_whitespaces": False},)
    assert len({FairseqSentencePiece(trained(**given)).fingerprint for given in options}) == 4


def test_what_is_not_xlmrs(tmp_path, tokenizer):
    """Another model, another library file, a case to choose: said, with the file."""
    with pytest.raises(ValueError, match="is no model of XLM-R's: its first pieces are <unk>"):
        FairseqSentencePiece(trained(user_defined_symbols=["<mask>"]))
    with pytest.raises(ValueError, match=r"its first pieces are <pad> <unk> <s>"):
        FairseqSentencePiece(trained(pad_id=0, unk_id=1, bos_id=2, eos_id=3))
    with pytest.raises(ValueError, match=r"lacks the special tokens"):
        SentencePiece(trained())
    never = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"}
    cases = {
        "Metaspace, ['never']": {"pre_tokenizer": never},
        "Lowercase": {"normalizer": {"type": "Lowercase"}},
        "is damaged": {"pre_tokenizer": 3},
    }
    for message, changes in cases.items():
        (tmp_path / "tokenizer.json").write_text(json.dumps(library_file(tokenizer, **changes)))
        with pytest.raises(ValueError, match=r"tokenizer\.json is ") as error:
            load(tmp_path)
        assert message in str(error.value)
    tokenizer.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="lowercase=True does not apply to XLM-R's"):
        load(tmp_path / "saved", lowercase=True)
    assert not fairseq_sentencepiece.is_saved_in(tmp_path / "nothing")
