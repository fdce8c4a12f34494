"""Entities scored as the CoNLL shared tasks do, through `seqeval`."""

from collections.abc import Sequence

from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

Tags = Sequence[list[str]]  # of each sentence


def entity_scores(gold: Tags, found: Tags) -> dict[str, float]:
    """`precision`, `recall` and `f1` over all entities; one counts if its first word, last word and type are right.

    As conlleval.pl (Tjong Kim Sang 2000): an I begins an entity if none of its type is open, so every sequence of tags
    has a score; 0 where there are no entities.
    """
    scores = precision_recall_fscore_support(list(gold), list(found), average="micro", zero_division=0)
    return dict(zip(("precision", "recall", "f1"), map(float, scores[:3]), strict=True))


def surface_f1(words: Sequence[Sequence[str]], gold: Tags, found: Tags) -> float:
    """F1 over the different entities, each counted once: its words with its type (WNUT-17, Derczynski et al. 2017)."""
    wanted, answered = (_surfaces(words, tags) for tags in (gold, found))
    return 2 * len(wanted & answered) / max(len(wanted) + len(answered), 1)


def count_entities(tags: Tags) -> int:
    """Entities in all sentences."""
    return sum(len(get_entities(sentence)) for sentence in tags)


def _surfaces(words: Sequence[Sequence[str]], tags: Tags) -> set[tuple[str, ...]]:
    return {
        (kind, *sentence[start : end + 1])
        for sentence, own in zip(words, tags, strict=True)
        for kind, start, end in get_entities(own)
    }
