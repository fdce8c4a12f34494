import gzip
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bert_jax.data.documents import Document, TextFiles, TfdsText, as_document, wiki40b_paragraphs


def written(folder: Path, text: str | bytes, name: str = "text.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_plain_file_is_one_document_of_joined_paragraphs(tmp_path):
    """A file is a document, blank lines separate paragraphs, and hard-wrapped lines become one."""
    path = written(tmp_path, "\n\nThe first line\n  goes on here.\n \t\n\nNext one.\n")
    assert list(TextFiles([path])) == [Document(["The first line goes on here.", "Next one."])]


def test_lines_too_long_to_be_wrapped_are_paragraphs_of_their_own(tmp_path):
    """Text with one paragraph a line and no blank lines keeps its paragraphs."""
    first, second = "word " * 40 + "end.", "Short."
    path = written(tmp_path, f"{first}\n{second}\n")
    assert list(TextFiles([path], "plain")) == [Document([first, second])]


def test_sentences_format_ends_documents_at_blank_lines(tmp_path):
    """One sentence a line; any number of blank lines ends a document and none is empty (details 1)."""
    path = written(tmp_path, "\nOne. Still one.\nTwo.\n\n\n\nThree.\n")
    documents = list(TextFiles([path], "sentences"))
    assert documents == [Document(["One. Still one.", "Two."], True), Document(["Three."], True)]


WIKI = """<doc id="1" url="u" title="Fish &amp; Chips">
Fish &amp; Chips

Fish &amp; chips is a dish.
History.
Fish &amp; Chips
</doc>

<doc id="2" url="u" title="Only a title">
Only a title
</doc>
<doc id="3">
No title here.
</doc>
"""


def test_wikiextractor_documents_without_their_titles(tmp_path):
    """Only the first line can be the title; entities become characters; a document without text is left out."""
    documents = list(TextFiles([written(tmp_path, WIKI)]))
    assert documents == [
        Document(["Fish & chips is a dish.", "History.", "Fish & Chips"]),
        Document(["No title here."]),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<doc id='1'>\na\n", "line 1: <doc> without </doc>"),
        ("<doc id='1'>\na\n<doc id='2'>\nb\n</doc>\n", "line 3: <doc> inside the <doc> of line 1"),
        ("<doc id='1'>\na\n</doc>\nstray\n", "line 4: text outside"),
        ("<doc id='1'>\na\n</doc>\n</doc>\n", "line 4: </doc> without"),
    ],
)
def test_broken_wikiextractor_files_are_named_with_their_line(tmp_path, text, message):
    """A file that was cut off or is of another format is an error, not a shorter corpus."""
    with pytest.raises(ValueError, match=message):
        list(TextFiles([written(tmp_path, text)], "wikiextractor"))


def test_auto_tells_wikiextractor_from_plain_file_by_file(tmp_path):
    """Each file's first line decides, and the card says what it decided."""
    files = TextFiles([written(tmp_path, WIKI, "wiki"), written(tmp_path, "Plain text.", "plain")])
    assert len(list(files)) == 3
    assert [file["format"] for file in files.describe()] == ["wikiextractor", "plain"]


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_files_read_as_the_plain_one(tmp_path, suffix, compress):
    """.gz and .xz are unpacked; a cut-off or damaged archive is an error."""
    text = "Some text.\r\n\r\nMore of it.\r\n" * 50
    plain = list(TextFiles([written(tmp_path, text)]))
    packed = written(tmp_path, compress(text.encode()), "text" + suffix)
    assert list(TextFiles([packed])) == plain
    whole = packed.read_bytes()
    for damaged in (whole[:-12], whole[: len(whole) // 2] + b"\xff" * 9 + whole[len(whole) // 2 + 9 :]):
        packed.write_bytes(damaged)
        with pytest.raises(ValueError, match="archive damaged or cut off"):
            list(TextFiles([packed]))


def test_byte_order_mark_and_unicode_line_separators_are_no_lines(tmp_path):
    """The mark is dropped; U+2028 and U+0085 stay in their sentence, since only a line feed ends a line."""
    path = written(tmp_path, "\ufeffOne\u2028still\u0085one.\nTwo.\n")
    assert list(TextFiles([path], "sentences")) == [Document(["One\u2028still\u0085one.", "Two."], True)]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_text_that_is_not_utf8_is_named_by_file_line_and_byte(tmp_path, suffix):
    """The offset counts bytes of the text from the start of the file."""
    raw = "é first\n".encode() + b"caf\xe9\n"
    path = written(tmp_path, gzip.compress(raw) if suffix else raw, "latin.txt" + suffix)
    with pytest.raises(ValueError, match=r"latin\.txt.*, line 2: not UTF-8: byte 0xe9 at byte offset 12"):
        list(TextFiles([path]))


def test_files_are_checked_before_anything_is_read(tmp_path):
    """Missing, empty and unsuitable inputs fail at construction."""
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        TextFiles([tmp_path / "missing.txt"])
    with pytest.raises(ValueError, match="is empty"):
        TextFiles([written(tmp_path, "")])
    with pytest.raises(ValueError, match="is a folder"):
        TextFiles([tmp_path])
    with pytest.raises(ValueError, match="no text files"):
        TextFiles([])
    with pytest.raises(ValueError, match="unknown text format 'jsonl'"):
        TextFiles([written(tmp_path, "x")], "jsonl")


@pytest.mark.parametrize("format", ["plain", "sentences", "wikiextractor", "auto"])
def test_file_of_blank_lines_is_an_error(tmp_path, format):
    """A file that adds nothing is a mistake worth hearing of."""
    with pytest.raises(ValueError, match=r"blank\.txt holds no text"):
        list(TextFiles([written(tmp_path, "\n \n", "blank.txt")], format))


def test_documents_given_by_the_caller():
    """A str is plain text, a list is its paragraphs, a Document stays what it is."""
    assert as_document("a\nb\n\nc") == Document(["a b", "c"])
    assert as_document(["a\nb", "c"]) == Document(["a\nb", "c"])
    assert as_document(Document(["a"], True)) == Document(["a"], True)


def test_wiki40b_markers_are_no_text():
    """Titles and markers are dropped, section headings and paragraphs kept."""
    text = "\n_START_ARTICLE_\nTitle\n_START_SECTION_\nHistory\n_START_PARAGRAPH_\nOne._NEWLINE_Two."
    assert wiki40b_paragraphs(text) == ["History", "One.", "Two."]


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory) -> Path:
    """A data set of three records, prepared from local values: no network."""
    import tensorflow_datasets as tfds

    class TinyText(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            features = {"title": tfds.features.Text(), "text": tfds.features.Text()}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: object) -> dict:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict]]:
            yield 0, {"title": "A", "text": "One.\n\nTwo\nthree."}
            yield 1, {"title": "B", "text": "   "}
            yield 2, {"title": "C", "text": "_START_ARTICLE_\nTitle\n_START_PARAGRAPH_\nFour."}

    folder = tmp_path_factory.mktemp("tfds")
    TinyText(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_tfds_records_are_documents(tfds_folder):
    """A prepared data set is read by name, its text feature found, without TensorFlow."""
    source = TfdsText("tiny_text", data_dir=str(tfds_folder))
    assert sorted(source) == [Document(["Four."]), Document(["One.", "Two three."])]
    assert source.describe() == [{"tfds": "tiny_text", "split": "train", "field": "text"}]
    assert len(list(TfdsText("tiny_text", field="title", data_dir=str(tfds_folder)))) == 3
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("name", "split", "field", "message"),
    [
        ("no_such_set", "train", None, "'no_such_set'.*not found"),
        ("tiny_text", "validation", None, "split validation|'validation'"),
        ("tiny_text", "train", "body", "no text field 'body'; its text fields are title, text"),
    ],
)
def test_tfds_errors_name_what_is_missing(tfds_folder, name, split, field, message):
    """An unknown data set, split or field is one clear message."""
    with pytest.raises(ValueError, match=message):
        list(TfdsText(name, split, field, str(tfds_folder)))
