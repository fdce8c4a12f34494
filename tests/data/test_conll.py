"""Tagged sentences from CoNLL columns, CoNLL-U, JSON Lines and TFDS; what is wrong in a file is named with its line."""

import gzip
import json
import lzma
import sys
from collections.abc import Iterator

import pytest

from bert_jax.data.conll import TaggedFiles, bio, read_sentences
from bert_jax.data.held_out import source_name

OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open}


def write(path, text):
    with OPENERS.get(path.suffix, open)(path, "wt", encoding="utf-8", newline="") as file:
        file.write(text)
    return path


def plain(sentences):
    return [list(zip(sentence.words, sentence.tags, strict=True)) for sentence in sentences]


CONLL = """-DOCSTART- -X- -X- O

EU NNP I-NP I-ORG
rejects VBZ I-VP O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER

-DOCSTART- -X- -X- O

LONDON NNP I-NP I-LOC
"""

CONLLU = """# newdoc id = a
# text = I don't.
1\tI\ti\tPRON\tPRP\t_\t0\troot\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVBP\t_\t1\taux\t_\t_
3\tn't\tnot\tPART\tRB\t_\t1\tadvmod\t_\t_

# text = New York
1\tNew York\tNew York\tPROPN\tNNP\t_\t0\troot\t_\t_
1.1\tis\tbe\tAUX\tVBZ\t_\t_\t_\t_\t_
# newdoc
# text = #1
1\t#1\t#1\tSYM\tCD\t_\t0\troot\t_\t_

"""


@pytest.mark.parametrize("compression", OPENERS)
@pytest.mark.parametrize("separator", [" ", "\t", "  "])
def test_columns(tmp_path, compression, separator):
    """First and last column, separated by tabs or any number of spaces; -DOCSTART- begins a document and is no word."""
    path = write(tmp_path / f"eng.testa{compression}", CONLL.replace(" ", separator))
    sentences = read_sentences(path, scheme="plain")
    assert plain(sentences) == [
        [("EU", "I-ORG"), ("rejects", "O")],
        [("Peter", "I-PER"), ("Blackburn", "I-PER")],
        [("LONDON", "I-LOC")],
    ]
    assert [sentence.lines for sentence in sentences] == [(3, 4), (6, 7), (11,)]
    assert [sentence.place for sentence in sentences] == [f"{path}, line {line}" for line in (3, 6, 11)]
    first, second, third = sentences
    assert first.document is second.document and first.document == [first, second] and third.document == [third]


def test_other_columns(tmp_path):
    """By number from 1, or from the end."""
    path = write(tmp_path / "a.conll", CONLL)
    assert plain(read_sentences(path, tag_column="2", scheme="plain"))[0] == [("EU", "NNP"), ("rejects", "VBZ")]
    assert plain(read_sentences(path, "-1", "-2", "plain"))[0] == [("I-ORG", "I-NP"), ("O", "I-VP")]
    with pytest.raises(ValueError, match=r"a\.conll: column 'ner': give its number, from 1 on"):
        read_sentences(path, tag_column="ner")
    with pytest.raises(ValueError, match=r"a\.conll: column '0'"):
        read_sentences(path, word_column="0")


def test_lines_of_white_space_end_a_sentence(tmp_path):
    """As WNUT-17's lone tabs do, several of them and at the ends of the file, too; other white space is part of a word,
    and the last line needs no line feed."""
    path = write(tmp_path / "a.conll", "\ufeff\n\t\na\tO\r\n\t\n  \n\nb\u00a0c\tO\n#d\tB-x")
    sentences = read_sentences(path)
    assert plain(sentences) == [[("a", "O")], [("b\u00a0c", "O"), ("#d", "B-x")]]
    assert [sentence.lines for sentence in sentences] == [(3,), (7, 8)]
    assert [len(sentence.document) for sentence in sentences] == [1, 1]  # no documents are marked
    assert plain(read_sentences(write(tmp_path / "b.conll", "b\u00a0c O\n"))) == [[("b\u00a0c", "O")]]


def test_conllu(tmp_path):
    """FORM and UPOS; comments, multi-word tokens and empty nodes are no words; `# newdoc` begins a document; a word may
    begin with #, and a comment ends a sentence that no blank line ends."""
    sentences = read_sentences(write(tmp_path / "a.conllu", CONLLU), scheme="plain")
    assert plain(sentences) == [
        [("I", "PRON"), ("do", "AUX"), ("n't", "PART")],
        [("New York", "PROPN")],
        [("#1", "SYM")],
    ]
    assert [sentence.lines for sentence in sentences] == [(3, 5, 6), (9,), (13,)]
    assert [len(sentence.document) for sentence in sentences] == [2, 2, 1]
    xpos = read_sentences(tmp_path / "a.conllu", tag_column="5", scheme="plain")
    assert xpos[0].tags == ["PRP", "VBP", "RB"]


def test_json_lines(tmp_path):
    """A list of words and one of tags, by any name; words may hold white space, and there are no documents."""
    rows = [{"tokens": ["New York", "a"], "ner": ["B-LOC", "O"]}, {"tokens": ["b"], "ner": ["O"]}]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    sentences = read_sentences(path, "tokens", "ner")
    assert plain(sentences) == [[("New York", "B-LOC"), ("a", "O")], [("b", "O")]]
    assert [sentence.place for sentence in sentences] == [f"{path}, line 1", f"{path}, line 2"]
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: no field 'words'; it has 'tokens', 'ner'"):
        read_sentences(path)


@pytest.mark.parametrize(
    ("name", "text", "line", "fault"),
    [
        ("a.conll", "a x O\nb O\n", 2, "2 columns, but the sentence begins with 3 in line 1"),
        ("a.conll", "a O\n\nb O\nc x O\n", 4, "3 columns, but the sentence begins with 2 in line 3"),
        ("a.conll", "a\tO\n\tO\n", 2, "the word is empty"),
        ("a.conll", "a\tO\nb\t\n", 2, "the tag is empty"),
        ("a.conll", "a O\n\nword\n", 3, "word and tag are the same column of 1"),
        ("a.conll", "a O\nb X-PER\n", 2, "'X-PER' is no tag of the scheme bio (O, B-type, I-type); --data.sch"),
        ("a.conll", "a O\nb E-PER\n", 2, "'E-PER' is no tag of the scheme bio"),
        ("a.conll", "a O\nb B-\n", 2, "'B-' is no tag"),
        ("a.conllu", "# c\n1\ta\n", 2, "no column 4, there are 2"),
        ("a.jsonl", '{"words": ["a"], "tags": ["O"]}\n\n{"words": ["a"], "tags": []}\n', 3, "1 words, but 0 tags"),
        ("a.jsonl", '{"words": [], "tags": []}\n', 1, "no words"),
        ("a.jsonl", '{"words": "a b", "tags": ["O", "O"]}\n', 1, "field 'words' is no list of texts"),
        ("a.jsonl", '{"words": [["a"]], "tags": ["O"]}\n', 1, "field 'words' is no list of texts"),
        ("a.jsonl", '{"words": ["a", ""], "tags": ["O", "O"]}\n', 1, "word 2: the word is empty"),
        ("a.jsonl", '{"words": ["a", "\\ud800"], "tags": ["O", "O"]}\n', 1, "word 2: the word '\\ud800' is not"),
        ("a.jsonl", '{"words": ["a"], "tags": ["B"]}\n{"words"\n', 2, "not JSON"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, name, text, line, fault):
    """A short, long or empty row, a column that is not there, a tag of another scheme, lists that do not fit."""
    path = write(tmp_path / name, text)
    data = TaggedFiles(str(path), (str(path),))
    with pytest.raises(ValueError) as error:
        data.usable(data.all_train_sentences)
    assert str(error.value).startswith(f"{path}, line {line}: {fault}")
    assert "--data.skip-bad-rows" in str(error.value)


def test_bad_sentences_are_left_out_on_request(tmp_path):
    """Whole, and nobody's context."""
    path = str(write(tmp_path / "a.conll", "-DOCSTART- O\n\na O\n\nb O\nc\n\nd O\n"))
    data = TaggedFiles(path, (path,), skip_bad_rows=True)
    kept = data.usable(data.all_train_sentences)
    assert plain(kept) == [[("a", "O")], [("d", "O")]] and kept[0].document == kept
    assert len(data.all_train_sentences) == 3


@pytest.mark.parametrize("name", ["a.conll", "a.conllu", "a.jsonl"])
def test_files_without_sentences(tmp_path, name):
    """An empty file, or one of blank lines, and a missing one."""
    with pytest.raises(ValueError, match=rf"{name}: no (sentences|rows)"):
        read_sentences(write(tmp_path / name, "\n \n"))
    with pytest.raises(FileNotFoundError, match=r"gone: no such file"):
        read_sentences(tmp_path / "gone")


@pytest.mark.parametrize(
    ("iob1", "wanted"),
    [
        ("I-PER I-PER O I-LOC", "B-PER I-PER O B-LOC"),  # CoNLL-2003: a B only between two of a type
        ("I-PER B-PER I-PER", "B-PER B-PER I-PER"),
        ("I-PER I-LOC B-LOC O", "B-PER B-LOC B-LOC O"),
        ("O I-X O", "O B-X O"),
        ("B-PER I-PER B-PER O B-LOC I-LOC", "B-PER I-PER B-PER O B-LOC I-LOC"),  # BIO stays
        ("B-PER I-LOC", "B-PER B-LOC"),
        ("I I B", "B I B"),
    ],
)
def test_iob1_to_bio(tmp_path, iob1, wanted):
    """By hand; and on reading."""
    assert bio(iob1.split()) == wanted.split()
    path = write(tmp_path / "a.conll", "".join(f"w {tag}\n" for tag in iob1.split()))
    assert read_sentences(path, scheme="iob1")[0].tags == wanted.split()
    assert read_sentences(path, scheme="bio")[0].tags == iob1.split()


def test_held_out_sentences(tmp_path):
    """Of `valid` by the names of its files, without the suffix of a format only; else whole documents of `train`."""
    train = "".join(f"-DOCSTART- O\n\na{i} O\n\nb{i} O\n\n" for i in range(10))
    paths = [str(write(tmp_path / name, train)) for name in ("eng.train", "eng.testa", "eng.testb.gz", "c.conll")]
    data = TaggedFiles(paths[0], tuple(paths[1:]))
    assert list(data.valid_sentences) == ["eng.testa", "eng.testb", "c"] and len(data.train_sentences) == 20
    assert list(TaggedFiles(paths[0], (paths[1],)).valid_sentences) == ["valid"]
    assert source_name("tfds:conll2003@dev") == "dev"
    with pytest.raises(ValueError, match="names of the held-out sources are the same"):
        _ = TaggedFiles(paths[0], (paths[1], paths[1])).valid_sentences
    data = TaggedFiles(paths[0], valid_share=0.2)
    held_out = data.valid_sentences["valid"]
    assert len(held_out) == 4 and len(data.train_sentences) == 16
    assert {id(s.document) for s in held_out}.isdisjoint(id(s.document) for s in data.train_sentences)
    assert len(TaggedFiles(f"{paths[0]}+{paths[1]}", (paths[1],)).train_sentences) == 40
    plus = str(write(tmp_path / "a+b.conll", train))
    assert len(TaggedFiles(plus, (plus,)).train_sentences) == 20


def test_limits(tmp_path):
    """A fixed draw of sentences, which keep their documents."""
    path = str(write(tmp_path / "a.conll", "-DOCSTART- O\n\n" + "".join(f"a{i} O\n\n" for i in range(20))))
    data = TaggedFiles(path, (path,), train_limit=5, valid_limit=3)
    drawn = [sentence.words for sentence in data.train_sentences]
    assert len(drawn) == 5 and drawn == [s.words for s in TaggedFiles(path, (path,), train_limit=5).train_sentences]
    assert len(data.train_sentences[0].document) == 20 and len(data.valid_sentences["valid"]) == 3
    with pytest.raises(ValueError, match=r"train_limit 21: .* has only 20"):
        _ = TaggedFiles(path, (path,), train_limit=21).train_sentences
    with pytest.raises(ValueError, match="train_limit -1"):
        TaggedFiles(path, train_limit=-1)
    with pytest.raises(ValueError, match=r"valid_share 1\.0"):
        TaggedFiles(path, valid_share=1.0)


def test_tfds(tmp_path):
    """Sequences of words and of class numbers, which are their names, as conll2003 has them; without TensorFlow."""
    import tensorflow_datasets as tfds

    class TinyTags(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            tags = tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-PER", "I-PER"]))
            features = {"tokens": tfds.features.Sequence(tfds.features.Text()), "ner": tags}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: object) -> dict:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict]]:
            yield 0, {"tokens": ["José", "Li", "ran"], "ner": ["B-PER", "I-PER", "O"]}
            yield 1, {"tokens": ["so"], "ner": [0]}

    TinyTags(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    sentences = read_sentences("tfds:tiny_tags@train", "tokens", "ner", tfds_dir=str(tmp_path))
    assert sorted(plain(sentences)) == [[("José", "B-PER"), ("Li", "I-PER"), ("ran", "O")], [("so", "O")]]
    assert sentences[0].place == "tfds:tiny_tags@train, record 0"
    assert "tensorflow" not in sys.modules


def test_real_files(shared_data):
    """WNUT-17 and EWT have as many sentences as their READMEs say, and nothing is wrong with any of them."""
    wnut, ewt = shared_data / "wnut17", shared_data / "ud_english_ewt"
    for folder, scheme, counts in (
        (wnut, "bio", {"wnut17train.conll": 3394, "emerging.dev.conll": 1009, "emerging.test.annotated": 1287}),
        (ewt, "plain", {f"en_ewt-ud-{n}.conllu.xz": i for n, i in (("train", 12544), ("dev", 2001), ("test", 2077))}),
    ):
        for name, count in counts.items():
            sentences = read_sentences(folder / name, scheme=scheme)
            assert len(sentences) == count and not any(sentence.fault for sentence in sentences)
    assert len({id(sentence.document) for sentence in sentences}) > 100  # of EWT's test set
