"""Parsers of models: tokenizers, configurations, weights and records of runs. From any bytes comes what can be used, or
an error that names the file or its folder, and nothing else."""

import json
import shutil
import struct
from pathlib import Path

import flax.serialization
import numpy as np
import pytest
from hypothesis import strategies as st

from bert_jax import pretrained
from bert_jax.experiment import check_record, encode
from bert_jax.interop import google, huggingface, tensors
from bert_jax.interop.members.bert import FIELDS
from bert_jax.learners.multitask import Multitask
from bert_jax.models.bert import Bert
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.text import tokenizer as tokenizers
from bert_jax.text.training import train_sentencepiece
from bert_jax.text.wordpiece import WordPiece
from experiments import pretrain_mini
from tests.faults.mutations import EXAMPLES, changed, fuzz, mutated
from tests.interop.random_models import TINY, random_model

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "北", "."]
VOCABULARY = "\n".join(PIECES).encode() + b"\n"
LIBRARY = {
    "model": {"type": "WordPiece", "vocab": {piece: i for i, piece in enumerate(PIECES)}},
    "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": None, "handle_chinese_chars": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
}
ENCODER = Bert(**TINY)
TEXT = "Ab ab. 北京 [MASK]"


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def use(tokenizer: tokenizers.Tokenizer) -> None:
    ids = tokenizer.encode_batch([TEXT])[0]
    assert (ids == tokenizer.encode(TEXT).ids).all() and (ids < tokenizer.vocab_size).all()
    tokenizer.decode(ids)


@EXAMPLES
@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("vocab.txt", mutated([VOCABULARY])),
        ("tokenizer.json", mutated([json.dumps(LIBRARY).encode()]) | changed([LIBRARY])),
        ("tokenizer_config.json", mutated([b'{"do_lower_case": true}']) | changed([{"do_lower_case": False}])),
    ],
)
def test_wordpiece(tmp_path, name, contents, examples):
    """Each file of a folder."""
    if name == "tokenizer_config.json":
        write(tmp_path / "vocab.txt", VOCABULARY)

    def parse(content: bytes) -> None:
        write(tmp_path / name, content)
        use(tokenizers.load(tmp_path))

    fuzz(parse, contents, examples, tmp_path)


@pytest.fixture(scope="module")
def sentencepiece_model() -> bytes:
    return train_sentencepiece(["a small text of words", "and of more words, more text"] * 9, 23)._content


@EXAMPLES
def test_sentencepiece(tmp_path, sentencepiece_model, examples):
    """A model is a protocol buffer, which the library reads in C++."""
    path = tmp_path / "spiece.model"

    def parse(content: bytes) -> None:
        write(path, content)
        use(tokenizers.load(tmp_path))

    fuzz(parse, mutated([sentencepiece_model]), examples, path)


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory) -> Path:
    """A whole model."""
    folder = tmp_path_factory.mktemp("models") / "huggingface"
    model = random_model({"mlm": Mlm(), "nsp": Nsp()}, tokenizer=WordPiece(PIECES), vocab_size=len(PIECES))
    model.save(folder, "hf")
    return folder


@EXAMPLES
def test_hugging_face_config(hugging_face, tmp_path, examples):
    """Beside weights that are whole."""
    folder = Path(shutil.copytree(hugging_face, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "no", "1": "yes"}, "classifier_dropout": None}

    def parse(content: bytes) -> None:
        write(folder / "config.json", content)
        pretrained.load_architecture(folder)

    fuzz(parse, mutated([json.dumps(config).encode()]) | changed([config]), examples, folder)


@EXAMPLES
def test_hugging_face_classifier(hugging_face, tmp_path, examples):
    """Whose head the configuration describes."""
    folder = Path(shutil.copytree(hugging_face, tmp_path / "model"))
    held, _ = tensors.read_folder(folder)
    width = TINY["width"]
    held |= {"classifier.weight": np.zeros((2, width), np.float32), "classifier.bias": np.zeros(2, np.float32)}
    tensors.write_safetensors(folder / tensors.SAFETENSORS, held)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "no", "1": "yes"}, "classifier_dropout": 0.1, "problem_type": None}
    config |= {"architectures": ["BertForSequenceClassification"]}

    def parse(content: bytes) -> None:
        write(folder / "config.json", content)
        assert pretrained.load_architecture(folder).model.objectives is not None

    fuzz(parse, changed([config]), examples, folder)


@EXAMPLES
def test_google_config(tmp_path, examples):
    """The original's, of a folder whose checkpoint is not there, or not yet read."""
    config = {theirs: getattr(ENCODER, ours) for theirs, ours in FIELDS.items()} | {"hidden_act": "gelu"}
    path = tmp_path / google.CONFIG

    def parse(content: bytes) -> None:
        huggingface.encoder_of(google._read_config(write(path, content)), pooler=True, source=path)

    fuzz(parse, mutated([json.dumps(config).encode()]) | changed([config]), examples, path)


@st.composite
def headers(draw, seeds: list[bytes]) -> bytes:
    """safetensors whose header, JSON behind its length, has other values."""
    content = draw(st.sampled_from(seeds))
    (length,) = struct.unpack("<Q", content[:8])
    header = draw(changed([json.loads(content[8 : 8 + length])]))
    told = draw(st.sampled_from([len(header), len(header) + 1, 0, length, 1 << 40, (1 << 64) - 1]))
    return struct.pack("<Q", told) + header + content[8 + length :]


@EXAMPLES
def test_safetensors(hugging_face, tmp_path, examples):
    """Bytes and headers of the file of weights: what is read fits the model, or it is refused."""
    folder = Path(shutil.copytree(hugging_face, tmp_path / "model"))
    seeds = [(folder / tensors.SAFETENSORS).read_bytes()]

    def parse(content: bytes) -> None:
        write(folder / tensors.SAFETENSORS, content)
        huggingface.read(folder)

    fuzz(parse, mutated(seeds) | headers(seeds), examples, folder)


@EXAMPLES
def test_index_of_several_files(hugging_face, tmp_path, examples):
    """It may name files that are not there, or elsewhere."""
    folder = Path(shutil.copytree(hugging_face, tmp_path / "model"))
    (folder / tensors.SAFETENSORS).rename(folder / "model-1.safetensors")
    names = tensors.read_safetensors(folder / "model-1.safetensors")
    index = {"metadata": {"total_size": 9}, "weight_map": dict.fromkeys(names, "model-1.safetensors")}

    def parse(content: bytes) -> None:
        write(folder / tensors.INDEX, content)
        tensors.read_folder(folder)

    fuzz(parse, mutated([json.dumps(index).encode()]) | changed([index]), examples, folder)


@EXAMPLES
def test_msgpack(tmp_path, examples):
    """The former Flax classes' weights."""
    path = tmp_path / tensors.MSGPACK
    tree = {"bert": {"pooler": {"dense": {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}}}}
    content = flax.serialization.msgpack_serialize(tree)
    fuzz(lambda content: tensors.read_msgpack(write(path, content)), mutated([content]), examples, path)


@EXAMPLES
def test_learner_of_a_run(tmp_path, examples):
    """`learner.json`, from which a model is opened; it names classes, of which only dataclasses are made."""
    pretrained.write_learner(tmp_path, Multitask(ENCODER, {"mlm": Mlm()}))
    record = json.loads((tmp_path / pretrained.LEARNER_FILE).read_text())

    def parse(content: bytes) -> None:
        write(tmp_path / pretrained.LEARNER_FILE, content)
        assert isinstance(pretrained.load_architecture(tmp_path).model, Multitask)

    fuzz(parse, mutated([json.dumps(record).encode()]) | changed([record]), examples, tmp_path)


@EXAMPLES
def test_record_of_a_run(tmp_path, examples):
    """`config.json`, opened for an evaluation, or compared with the experiment that is to be continued."""
    experiment = pretrain_mini.config()
    record = encode(experiment)
    path = tmp_path / "config.json"

    def parse(content: bytes) -> None:
        write(path, content)
        pretrained.load_experiment(tmp_path)
        check_record(path, experiment, tmp_path)

    fuzz(parse, mutated([json.dumps(record).encode()]) | changed([record]), examples, tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", {"tie_word_embeddings": None}, "tie_word_embeddings is None, expected true or false"),
        ("config.json", {"architectures": 3}, "architectures is 3, expected names"),
        ("config.json", {"id2label": ["a"]}, "id2label is .* expected names by their numbers"),
        ("config.json", {"classifier_dropout": "a"}, "classifier_dropout is 'a', expected a number"),
        ("config.json", {"layer_norm_eps": float("nan")}, "layer_norm_eps is nan, expected a number"),
        ("config.json", {"num_hidden_layers": 1 << 64}, "num_hidden_layers is 18446744073709551616, expected"),
        ("tokenizer_config.json", {"do_lower_case": 0}, "do_lower_case is 0, expected true or false"),
    ],
)
def test_what_was_found_in_folders(hugging_face, tmp_path, name, change, message):
    """Fields of a type that they should not have, each of which once ended in another error or in none."""
    folder = Path(shutil.copytree(hugging_face, tmp_path / "model"))
    write(folder / name, json.dumps(json.loads((folder / name).read_text()) | change).encode())
    with pytest.raises(ValueError, match=rf"{name}: {message}"):
        pretrained.load_architecture(folder)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "it records a NoneType, not a Multitask"),
        ({"class": None}, "class None of the record cannot be imported"),
        ({"class": ".x.y"}, "class .x.y of the record cannot be imported"),
        ({"class": "bert_jax.training.sharding.MeshShape"}, "it records a MeshShape, not a Multitask"),
        ({"class": "bert_jax.models.bert.Bert", "width": "8"}, "width of bert_jax.models.bert.Bert is '8' in the rec"),
        ({"class": "bert_jax.models.bert.Bert", "depth": 8}, "bert_jax.models.bert.Bert of the record cannot be made"),
    ],
)
def test_what_was_found_in_records(tmp_path, record, message):
    """The same of a record of this project."""
    write(tmp_path / pretrained.LEARNER_FILE, json.dumps(record).encode())
    with pytest.raises(ValueError, match=rf"{pretrained.LEARNER_FILE} is damaged.*{message}"):
        pretrained.load_architecture(tmp_path)


def test_index_with_a_name_that_no_file_can_have(hugging_face, tmp_path):
    """The system's own error about it would name nothing."""
    folder = Path(shutil.copytree(hugging_face, tmp_path / "model"))
    (folder / tensors.SAFETENSORS).unlink()
    write(folder / tensors.INDEX, json.dumps({"weight_map": {"a": "9" * 300 + ".safetensors"}}).encode())
    with pytest.raises(ValueError, match=r"index\.json points at '999.*, which is no safetensors file of its folder"):
        tensors.read_folder(folder)
