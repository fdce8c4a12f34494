"""Rows of TFDS data sets: as those of a file, without TensorFlow."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bert_jax.data.tables import Tables, read_table
from bert_jax.data.tfds import read_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set with fields of all kinds, prepared from local values: no network."""
    import tensorflow_datasets as tfds

    class TinyRows(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            text, number = tfds.features.Text(), tfds.features.Scalar(np.int32)
            features = {
                "idx": number,
                "text": text,
                "label": tfds.features.ClassLabel(names=["unacceptable", "acceptable"]),
                "score": tfds.features.Scalar(np.float32),
                "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B", "I"])),
                "words": tfds.features.Sequence(text),
                "answers": tfds.features.Sequence({"text": text, "start": number}),
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: object) -> dict:
            return {"train": self._generate_examples(3), "test": self._generate_examples(1, labelled=False)}

        def _generate_examples(self, count: int, labelled: bool = True) -> Iterator[tuple[int, dict]]:
            for i in range(count):
                yield (
                    i,
                    {
                        "idx": i,
                        "text": f"é {i}",
                        "label": i % 2 if labelled else -1,
                        "score": i + 0.5,
                        "tags": ["B", "I"][:i],
                        "words": ["a", "北"][:i],
                        "answers": {"text": ["x"] * i, "start": list(range(i))},
                    },
                )

    folder = tmp_path_factory.mktemp("tfds")
    TinyRows(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_values_are_those_of_a_file(folder):
    """Bytes are text, the number of a class is its name, a sequence a list, numbers are numbers."""
    rows = {fields["idx"]: fields for _, fields in read_rows("tfds:tiny_rows@train", str(folder))}
    assert rows[2] == {
        "idx": 2,
        "text": "é 2",
        "label": "unacceptable",
        "score": 2.5,
        "tags": ["B", "I"],
        "words": ["a", "北"],
        "answers": {"text": ["x", "x"], "start": [0, 1]},
    }
    assert rows[0]["tags"] == rows[0]["words"] == [] and rows[1]["label"] == "acceptable"
    assert "tensorflow" not in sys.modules


def test_rows_of_a_table(folder):
    """Fields are text or lists of text, with the place of each; splits can be slices, sums and one after the other."""
    rows = read_table("tfds:tiny_rows@train", ("text", "label", "score", "tags"), (), str(folder))
    assert sorted(row.fields["score"] for row in rows) == ["0.5", "1.5", "2.5"]
    assert [row.place for row in rows] == [f"tfds:tiny_rows@train, record {i}" for i in range(3)]
    data = Tables("tfds:tiny_rows@train[:2]", ("tfds:tiny_rows@train[2:]",), tfds_dir=str(folder))
    assert len(data.train_rows) == 2 and len(data.valid_rows["valid"]) == 1
    both = sorted(row.fields["text"] for row in data.train_rows + data.valid_rows["valid"])
    assert both == ["é 0", "é 1", "é 2"]
    inner = read_table("tfds:tiny_rows@train", ("idx", "answers/text"), (), str(folder))
    assert {row.fields["idx"]: row.fields["answers/text"] for row in inner} == {"0": [], "1": ["x"], "2": ["x", "x"]}
    with pytest.raises(ValueError, match=r"record 0: field 'answers' is no text, .*: 'answers/start', 'answers/text'"):
        read_table("tfds:tiny_rows@train", ("answers",), (), str(folder))
    for source in ("tfds:tiny_rows@train+test", "tfds:tiny_rows@train+tfds:tiny_rows@test"):
        assert len(data.read(source)) == 4


def test_a_test_set_without_labels(folder):
    """Its labels are -1 there, and an empty field here: a bad row."""
    data = Tables("tfds:tiny_rows@test", ("tfds:tiny_rows@test",), tfds_dir=str(folder))
    assert [data.empty_field(row) for row in data.train_rows] == ["field 'label' is empty"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tfds:tiny_rows", "tfds:tiny_rows: name a split, tfds:tiny_rows@train"),
        ("tfds:", "name a split, tfds:glue/sst2@train"),
        ("tfds:tiny_rows@dev", "split 'dev': cannot be read"),
        ("tfds:tinyrows@train", "TFDS data set 'tinyrows', split 'train': cannot be read"),
        ("tfds:tiny_rows@train", "record 0: no field 'sentence'; it has .*'text'"),
    ],
)
def test_what_is_wrong_is_named(folder, source, message):
    """No split, an unknown one, an unknown data set, an unknown field."""
    with pytest.raises(ValueError, match=message):
        read_table(source, ("sentence",), (), str(folder))
