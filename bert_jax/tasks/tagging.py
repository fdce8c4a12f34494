"""Tagging: a class for each word, such as named entities or parts of speech (Devlin et al. 2018, section 5.3)."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from bert_jax.data.conll import LETTERS, Sentence, TaggedFiles, bio
from bert_jax.data.word_rows import NOT_SCORED, WordRows
from bert_jax.learners.multitask import Multitask
from bert_jax.tasks.entities import count_entities, entity_scores, surface_f1
from bert_jax.tasks.texts import head_of
from bert_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Tagging:
    """Sentences of tagged words. The classes are the tags of the training file, also in sentences that are held out of
    it, and of each type of entity in them all letters of the scheme."""

    data: TaggedFiles
    """tagged sentences"""
    max_length: int = 128
    """tokens of a row with special tokens; a longer sentence is dealt out over several rows"""
    document_context: bool = False
    """fill each row with the words before and after the sentence in its document, which are read but not scored"""
    surface_f1: bool = False
    """also report WNUT-17's second metric, F1 over the different entities"""
    name: str = ""
    """how the task is called in reports, such as CoNLL-2003"""

    def __post_init__(self):
        if self.surface_f1 and not self.entities:
            raise ValueError(f"surface_f1 is of entities, which tags of the scheme {self.data.scheme} do not mark")

    @property
    def entities(self) -> bool:
        """Whether the tags mark entities."""
        return bool(LETTERS[self.data.scheme])

    def tokenizer(self) -> None:
        return None

    def train(self, tokenizer: Tokenizer) -> WordRows:
        return self._rows_of(self.data.train_sentences, tokenizer)

    def evaluations(self, tokenizer: Tokenizer) -> dict[str, WordRows]:
        return {name: self._rows_of(sentences, tokenizer) for name, sentences in self.data.valid_sentences.items()}

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The tags, sorted."""
        tags = {tag for sentence in self.data.usable(self.data.tag_sentences) for tag in sentence.tags}
        if self.entities:
            types = {tag[1:] for tag in tags if tag != "O"}
            tags |= {"O"} | {letter + type for letter in LETTERS[self.data.scheme] for type in types}
        return tuple(sorted(tags))

    def prepare(self, learner: Multitask) -> Multitask:
        """Gives the head its number of classes. Raises ValueError where the head says another one."""
        head, source = head_of(learner, "tag"), self.data.train
        if len(self.classes) < 2:
            raise ValueError(f"{source}: every word has the tag {self.classes[0]!r}; two are needed")
        if head.num_classes not in (0, len(self.classes)):
            raise ValueError(
                f"the head has num_classes {head.num_classes}, but {source} has the {len(self.classes)} "
                f"tags {', '.join(self.classes)}"
            )
        head = replace(head, num_classes=len(self.classes), labels=self.classes)
        return replace(learner, objectives=dict(learner.objectives) | {"tag": head})

    def baselines(self, train: WordRows, evaluation: WordRows) -> dict[str, float]:
        """`tag/accuracy` of always answering the most frequent tag of the training words, `tag/f1` of finding no
        entity."""
        counts, tags = (np.bincount(_scored(rows), minlength=len(self.classes)) for rows in (train, evaluation))
        return {"tag/accuracy": float(tags[counts.argmax()] / tags.sum())} | ({"tag/f1": 0.0} if self.entities else {})

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Of what `score` adds to the metrics of the head, whose accuracy is that over words."""
        names = (("precision", "recall", "f1") if self.entities else ()) + (("surface_f1",) if self.surface_f1 else ())
        return tuple(f"tag/{name}" for name in names)

    def score(self, predictions: dict[str, np.ndarray], evaluation: WordRows) -> dict[str, float]:
        """Of the entities of a whole held-out set, however its sentences were dealt out over rows."""
        if not self.entities:
            return {}
        gold, found = [sentence.tags for sentence in evaluation.sentences], self._found(predictions, evaluation)
        scores = entity_scores(gold, found)
        if self.surface_f1:
            scores["surface_f1"] = surface_f1([sentence.words for sentence in evaluation.sentences], gold, found)
        return {f"tag/{name}": value for name, value in scores.items()}

    def rows(self, predictions: dict[str, np.ndarray], evaluation: WordRows) -> list[dict]:
        """One row per word for the predictions file: number of the sentence, word, tag and predicted tag."""
        found = self._found(predictions, evaluation)
        return [
            {"sentence": number, "word": word, "tag": tag, "prediction": prediction}
            for number, (sentence, tags) in enumerate(zip(evaluation.sentences, found, strict=True))
            for word, tag, prediction in zip(sentence.words, sentence.tags, tags, strict=True)
        ]

    def preview(self, train: WordRows, tokenizer: Tokenizer) -> list[str]:
        """What is trained on: rows as the model reads them, how sentences were dealt out, the tags and their shares,
        what was left out."""
        lines = []
        for i, row in enumerate(train.read(np.arange(min(3, len(train))))["tokens"]):
            pieces = tokenizer.tokens(row[: train.lengths[i]])
            shown = " ".join(
                piece if tag == NOT_SCORED else f"{piece}/{self.classes[tag]}"
                for piece, tag in zip(pieces, train.targets["tags"][i], strict=False)
            )
            lines.append(f"example {i}: {shown if len(shown) <= 400 else shown[:397] + '...'}")
        sentences = train.sentences
        lines.append(
            f"{train.split:,} of {len(sentences):,} sentences do not fit {self.max_length} tokens and are dealt out "
            f"over several rows, every word scored once; {len(train):,} rows, mean length {train.lengths.mean():.1f}"
        )
        counts = np.bincount(_scored(train), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        shares = [f"{self.classes[i]} {counts[i] / counts.sum():.1%}" for i in order[:20]]
        more = f", and {len(order) - 20} more" if len(order) > 20 else ""
        lines.append(f"{counts.sum():,} words, {len(self.classes)} tags: {', '.join(shares)}{more}")
        if self.entities:
            tags = [sentence.tags for sentence in sentences]
            lines.append(f"{count_entities(tags):,} entities")
            wrong = sum(bio(own) != own for own in tags) if self.data.scheme == "bio" else 0
            if wrong:
                lines.append(f"an I- begins an entity in {wrong:,} sentences: if this is IOB1, --data.scheme iob1")
        return lines + self._notes()

    def _notes(self) -> list[str]:
        if not self.data.skip_bad_rows:
            return []
        lines = []
        for name, sentences in ({"train": self.data.all_train_sentences} | self.data.valid_sentences).items():
            bad = [sentence for sentence in map(self._checked, sentences) if sentence.fault]
            if bad:
                first = f"{bad[0].place}: {bad[0].fault}"
                lines.append(f"{len(bad):,} of {len(sentences):,} sentences of {name} are left out, the first: {first}")
        return lines

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.classes)}

    def _checked(self, sentence: Sentence) -> Sentence:
        """The sentence, with a fault if one of its tags is no class."""
        wrong = [i for i, tag in enumerate(sentence.tags) if tag not in self._numbers]
        if sentence.fault or not wrong:
            return sentence
        i = wrong[0]
        place = f"{sentence.place.rpartition(', ')[0]}, line {sentence.lines[i]}" if sentence.lines else sentence.place
        fault = f"the tag {sentence.tags[i]!r} of {sentence.words[i]!r} is none of {self.data.train}"
        return replace(sentence, place=place, fault=f"{fault}: {', '.join(self.classes)}")

    def _rows_of(self, sentences: list[Sentence], tokenizer: Tokenizer) -> WordRows:
        kept = self.data.usable([self._checked(sentence) for sentence in sentences])
        if self.document_context and all(len(sentence.document) == 1 for sentence in kept):
            place = kept[0].place.rpartition(", ")[0]
            raise ValueError(f"document_context: {place} marks no documents (-DOCSTART- in CoNLL, # newdoc in CoNLL-U)")
        return WordRows(kept, self._numbers, tokenizer, self.max_length, self.document_context)

    def _found(self, predictions: dict[str, np.ndarray], evaluation: WordRows) -> list[list[str]]:
        best = predictions["tag/probabilities"].argmax(axis=-1)
        return [[self.classes[i] for i in own] for own in evaluation.of_sentences(best)]


def _scored(rows: WordRows) -> np.ndarray:
    """The numbers of the tags of all words."""
    tags = rows.targets["tags"]
    return tags[tags != NOT_SCORED]
