"""The file of a SentencePiece model, a protocol buffer: as much of it as tokenizers read or write themselves."""

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence

# Field numbers of sentencepiece_model.proto; the package's own reader of it wants one version of protobuf alone.
PIECES, NORMALIZER = 1, 3
PIECE, SCORE, TYPE = 1, 2, 3
NAME, CHARACTERS, DUMMY_PREFIX, EXTRA_WHITESPACES = 1, 2, 3, 4
UNKNOWN, CONTROL = 2, 3  # types; a normal piece is 1, the default


def normalizer_of(model: bytes) -> list:
    """What a model does to the characters of a text, as it says in its file: the map, and two options."""
    (fields,) = [dict(_fields(value)) for number, value in _fields(model) if number == NORMALIZER] or [{}]
    characters = hashlib.sha256(fields.get(CHARACTERS, b"")).hexdigest()
    return [characters, bool(fields.get(DUMMY_PREFIX, 1)), bool(fields.get(EXTRA_WHITESPACES, 1))]


def model_of(pieces: Sequence[tuple[str, float]], types: Mapping[str, int], characters: bytes) -> bytes:
    """The file of a unigram model of these pieces with their scores.

    types: of the special pieces, at their first place.
    characters: the map of characters, compiled; empty for none.
    """
    parts, left = [], dict(types)
    for piece, score in pieces:
        fields = _field(PIECE, piece.encode()) + bytes([SCORE << 3 | 5]) + struct.pack("<f", score)
        parts.append(_field(PIECES, fields + (bytes([TYPE << 3, left.pop(piece)]) if piece in left else b"")))
    return b"".join(parts) + _field(NORMALIZER, _field(NAME, b"nmt_nfkc") + _field(CHARACTERS, characters))


def _field(number: int, value: bytes) -> bytes:
    size, length = len(value), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(tag & 7) or varint()
        at += size
        yield tag >> 3, message[at - size : at]
