"""Published results: what is written down is read as it was meant, and each says where it is from."""

import pytest

from bert_jax.tasks.published import MEMORY, OFFICIAL, PUBLISHED, READ, TRANSCRIBED, published


@pytest.mark.parametrize(
    ("task", "metric", "split", "model", "value", "std", "source", "certainty"),
    [
        ("MNLI-mm", "accuracy", "test", "BERT base", 83.4, None, "Devlin et al. 2018, table 1", TRANSCRIBED),
        ("CoLA", "matthews", "test", "BERT large", 60.5, None, "Devlin et al. 2018, table 1", TRANSCRIBED),
        ("CoNLL-2003", "f1", "test", "BERT large", 92.8, None, "Devlin et al. 2018, table 7", TRANSCRIBED),
        ("SWAG", "accuracy", "dev", "BERT base", 81.6, None, "Devlin et al. 2018, table 4", TRANSCRIBED),
        ("MRPC", "f1", "dev", "BERT base cased", 88.97, 0.72, "transformers, Flax GLUE example", READ),
        ("SST-2", "accuracy", "test", "BERT mini", 85.9, None, "google-research/bert README, small models", READ),
        (
            "MNLI",
            "accuracy",
            "dev",
            "BERT base, 0/20/80",
            83.7,
            None,
            "Devlin et al. 2018, table 8, fine-tuned",
            MEMORY,
        ),
    ],
)
def test_entries(task, metric, split, model, value, std, source, certainty):
    """One entry of each kind of table, by hand from the source: columns, splits and deviations are not mixed up."""
    (found,) = [x for x in published(task, metric) if (x.model, x.source, x.split) == (model, source, split)]
    assert (found.value, found.std, found.certainty) == (value, std, certainty)
    assert found.link.startswith(("https://arxiv.org/abs/", "https://github.com/"))


def test_every_entry_is_plausible():
    """Percentages between 0 and 100, nothing twice, and no result without its certainty."""
    keys = [(x.task, x.metric, x.split, x.model, x.source) for x in PUBLISHED]
    assert len(set(keys)) == len(keys)
    for entry in PUBLISHED:
        assert 0 <= entry.value <= 100 and (entry.std is None or 0 < entry.std < 10)
        assert any(word in entry.certainty for word in (READ, TRANSCRIBED, MEMORY))


def test_the_papers_result_comes_first():
    """Reports show the first of a task: it is the paper's BERT base where the paper has the task."""
    for task, metric in OFFICIAL.items():
        if task not in ("WNLI", "SQuAD 2.0"):
            assert (published(task, metric)[0].model, published(task, metric)[0].certainty) == (
                "BERT base",
                TRANSCRIBED,
            )
