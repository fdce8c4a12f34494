"""Entity scores by hand, as conlleval.pl counts: whole entities of the right type, whatever the tags look like."""

import pytest

from bert_jax.tasks.entities import count_entities, entity_scores, surface_f1

# gold, found, right entities, found ones, gold ones
CASES = [
    ("B-PER I-PER O B-LOC", "B-PER I-PER O B-LOC", 2, 2, 2),
    ("B-PER I-PER O B-LOC", "B-PER O O B-LOC", 1, 2, 2),  # too short
    ("B-PER I-PER O B-LOC", "B-PER I-PER I-PER B-LOC", 1, 2, 2),  # too long
    ("B-PER I-PER O B-LOC", "B-ORG I-ORG O B-LOC", 1, 2, 2),  # another type
    ("B-PER I-PER O O", "B-PER I-LOC O O", 0, 2, 1),  # the type changes: two entities
    ("B-PER B-PER O O", "B-PER I-PER O O", 0, 1, 2),
    ("B-PER I-PER O O", "I-PER I-PER O O", 1, 1, 1),  # an I begins an entity where none is open
    ("B-PER I-PER O O", "O I-PER O O", 0, 1, 1),
    ("B-LOC B-PER I-PER O", "B-LOC I-PER I-PER O", 2, 2, 2),  # and where one of another type is
    ("B-PER O B-PER I-PER", "B-PER O O O", 1, 1, 2),
    ("B-PER O O O", "O O O O", 0, 0, 1),
    ("O O O O", "B-PER O O O", 0, 1, 0),
    ("O O O O", "O O O O", 0, 0, 0),
    ("B-PER I-PER E-PER S-LOC", "B-PER I-PER E-PER S-LOC", 2, 2, 2),  # IOBES
    ("B-PER E-PER S-LOC S-LOC", "B-PER I-PER E-LOC S-LOC", 3, 3, 3),  # a change of type ends an entity, too
    ("B-PER I-PER E-PER O", "B-PER E-PER E-PER O", 0, 2, 1),
    ("S-PER O B-LOC E-LOC", "B-PER O B-LOC I-LOC", 2, 2, 2),
    ("B I O B", "B I O O", 1, 1, 2),  # one type only
]


@pytest.mark.parametrize(("gold", "found", "right", "answered", "there"), CASES)
def test_by_hand(gold, found, right, answered, there):
    """Precision and recall of the counts, F1 of the two, 0 where there is nothing; entities end with their sentence."""
    wanted = {
        "precision": right / max(answered, 1), "recall": right / max(there, 1),
        "f1": 2 * right / max(answered + there, 1),
    }  # fmt: skip
    assert entity_scores([gold.split()], [found.split()]) == pytest.approx(wanted)
    assert count_entities([gold.split()]) == there


def test_over_sentences():
    """The counts are summed over sentences and types, and no entity goes on in the next sentence."""
    gold = [["B-PER"], ["I-PER", "O"], ["B-LOC", "I-LOC"]]
    found = [["B-PER"], ["O", "O"], ["B-LOC", "O"]]
    assert entity_scores(gold, found) == pytest.approx({"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5})
    assert count_entities(gold) == 3


def test_surface_f1():
    """Each different entity counts once: the easy one that comes three times does not outweigh the rare one."""
    words = [["Rome"], ["Rome"], ["Rome"], ["Mo", "Li"], ["Paris"]]
    gold = [["B-LOC"], ["B-LOC"], ["B-LOC"], ["B-PER", "I-PER"], ["B-LOC"]]
    found = [["B-LOC"], ["O"], ["O"], ["B-PER", "O"], ["B-PER"]]
    # There: Rome, Mo Li, Paris. Found: Rome, Mo, Paris as a person. In both: Rome.
    assert surface_f1(words, gold, found) == pytest.approx(2 * 1 / (3 + 3))
    assert surface_f1(words, gold, gold) == 1.0
    assert surface_f1([["a"]], [["O"]], [["O"]]) == 0.0
