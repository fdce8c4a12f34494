"""The corpus card: what a corpus consists of, what looks wrong with it, and both as a table."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bert_jax.data.instances import Pairs
from bert_jax.data.sentence_rows import Rows
from bert_jax.text.segmentation import Segmenter

# Of a file: a card can come from elsewhere, and must not point out of its folder.
PLAIN_NAME = re.compile(r"\w[\w.-]{,200}", re.ASCII)

MANY_UNKNOWN = 0.10  # a matching WordPiece vocabulary leaves well under 1 % of English or Chinese text unknown
MANY_SINGLE_SENTENCES = 0.50  # of the documents
UNEVEN_LABELS = 0.95  # share of one label; the original's rules give 0.5 to 0.7 on prose


def split_card(counts: Mapping[str, int], max_seq_length: int) -> dict:
    """The card of one split from its summed counts.

    Args:
      counts: documents, sentences, tokens, text_bytes, unknown, single_sentence (documents with one sentence),
        instances, random_next, same_document, swapped, truncated, short, length (real tokens of all instances).
      max_seq_length: tokens of a padded row.
    """
    c = Counter(counts)
    instances, documents = c["instances"], c["documents"]
    return {
        "documents": documents,
        "sentences": c["sentences"],
        "tokens": c["tokens"],
        "text_bytes": c["text_bytes"],
        "instances": instances,
        "sentences_per_document": c["sentences"] / documents,
        "single_sentence_documents": c["single_sentence"] / documents,
        "unknown": c["unknown"] / c["tokens"],
        "random_next": c["random_next"] / instances,
        "random_next_same_document": c["same_document"] / instances,
        "swapped": c["swapped"] / instances,
        "truncated": c["truncated"] / instances,
        "short": c["short"] / instances,
        "mean_length": c["length"] / instances,
        "padding": 1 - c["length"] / (instances * max_seq_length),
    }


def read_card(file: Path, name: str) -> dict:
    """The card of a corpus, with what is needed to read it checked.

    Args:
      file: where it is.
      name: how it is called in messages.

    Raises ValueError for what is no card of a corpus.
    """
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is damaged: it is not JSON ({error})") from None
    fault = _fault(card)
    if fault:
        raise ValueError(f"{name} is damaged, or no card of a corpus: {fault}")
    return card


def _fault(card: Any) -> str:
    """What a card lacks that reading its corpus needs; "" if nothing."""
    if not isinstance(card, dict) or not isinstance(card.get("splits"), dict):
        return "it has no splits"
    for name, least in (("max_seq_length", 1), ("vocab_size", 1), ("pad_id", 0)):
        if type(card.get(name)) is not int or not least <= card[name] < 1 << 31:
            return f"{name} is {card.get(name)!r}"
    if card.get("segmenter", "none") not in get_args(Segmenter):
        return f"segmenter is {card['segmenter']!r}"
    if card.get("rows", "pairs") not in get_args(Rows):
        return f"rows is {card['rows']!r}"
    if card.get("pairs", "next") not in get_args(Pairs):
        return f"pairs is {card['pairs']!r}"
    if card.get("dtype") not in ("uint16", "uint32"):
        return f"dtype is {card.get('dtype')!r}"
    for split, held in card["splits"].items():
        if not isinstance(held, dict) or not isinstance(held.get("shards"), list) or not held["shards"]:
            return f"split {split!r} has no shards"
        for shard in held["shards"]:
            if not isinstance(shard, dict) or type(shard.get("instances")) is not int or shard["instances"] < 0:
                return f"a shard of {split!r} has no number of instances"
            if type(shard.get("bytes", 0)) is not int:
                return f"a shard of {split!r} has {shard['bytes']!r} bytes"
        for file in (*(shard.get("file") for shard in held["shards"]), held.get("lengths", "lengths")):
            if not isinstance(file, str) or not PLAIN_NAME.fullmatch(file):
                return f"{file!r} is no name of a file in its folder"
    return ""


def find_warnings(split: str, card: Mapping, pairs: Pairs | None = "next") -> list[str]:
    """What looks wrong in the card of a split, each with its likely cause; `pairs`: what labels say, if any."""
    found = []
    if pairs == "next" and card["documents"] == 1:
        found.append(
            "a single document: every random next sentence comes from that document itself, so NSP cannot be learnt; "
            "give more files, or --format sentences if blank lines separate documents"
        )
    if pairs and card["single_sentence_documents"] > MANY_SINGLE_SENTENCES:
        found.append(
            f"{card['single_sentence_documents']:.0%} of the documents are one sentence, without a real next sentence; "
            "a blank line after every sentence would do that"
        )
    ones = card["random_next"] + card["swapped"]
    if pairs and not 1 - UNEVEN_LABELS <= ones <= UNEVEN_LABELS:
        every = "all" if ones in (0, 1) else "nearly all"
        label = {"next": "NSP", "order": "SOP"}[pairs]
        found.append(
            f"{every} {label} labels are equal ({card['random_next']:.1%} random next): there is nothing to learn; "
            "check the documents and the sentence lengths"
        )
    if card["unknown"] > MANY_UNKNOWN:
        found.append(
            f"{card['unknown']:.1%} of the tokens are [UNK]: the vocabulary does not fit the text's language, casing "
            "or encoding"
        )
    return [f"{split}: {text}" for text in found]


ROWS = (
    ("documents", "documents", "{:,}"),
    ("sentences", "sentences", "{:,}"),
    ("tokens", "tokens", "{:,}"),
    ("text_bytes", "bytes of text", "{:,}"),
    ("sentences_per_document", "sentences a document", "{:.1f}"),
    ("single_sentence_documents", "documents of one sentence", "{:.1%}"),
    ("unknown", "[UNK]", "{:.3%}"),
    ("instances", "instances", "{:,}"),
    ("random_next", "random next", "{:.1%}"),
    ("random_next_same_document", "  from the same document", "{:.1%}"),
    ("swapped", "swapped", "{:.1%}"),
    ("truncated", "truncated", "{:.1%}"),
    ("short", "short target length", "{:.1%}"),
    ("mean_length", "mean length", "{:.1f}"),
    ("padding", "padding", "{:.1%}"),
)


def card_table(card: Mapping) -> RenderableType:
    """The card as a table, its warnings below."""
    title = (
        f"{card.get('rows', 'pairs')}, max_seq_length {card['max_seq_length']}, dupe_factor {card['dupe_factor']}, "
        f"seed {card['seed']}, "
        f"vocabulary {card['vocab_size']:,} ({card['fingerprint'][:12]})"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for split in card["splits"]:
        table.add_column(split, justify="right")
    absent = () if card.get("pairs", "next") == "order" else ("swapped",)
    if card.get("rows", "pairs") != "pairs":
        absent += ("random_next", "random_next_same_document", "short")
    for key, label, form in (row for row in ROWS if row[0] not in absent):
        table.add_row(label, *(form.format(split[key]) for split in card["splits"].values()))
    table.add_row("shards", *(str(len(split["shards"])) for split in card["splits"].values()))
    return Group(table, *(Text(f"warning: {warning}", style="bold yellow") for warning in card["warnings"]))
