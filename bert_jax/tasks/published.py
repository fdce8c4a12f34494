"""Published results that measured ones can stand beside, each with its source and how certain the number is.

All in percent, but for the perplexity. The columns of the tables are `task/metric`; the metric is accuracy where none
is given. MNLI is its matched set, MNLI-mm the mismatched one. Where a source does not name the metric, its number is
left out: it could not be compared.
"""

from dataclasses import dataclass
from typing import Literal

READ = "read in the source"
TRANSCRIBED = "from a transcription"
MEMORY = "from memory"

# The metric that a task is known by. That of any other task is the first that it reports besides its loss.
OFFICIAL = {
    "CoLA": "matthews",
    "SST-2": "accuracy",
    "MRPC": "f1",
    "STS-B": "spearman",
    "QQP": "f1",
    "MNLI": "accuracy",
    "MNLI-mm": "accuracy",
    "QNLI": "accuracy",
    "RTE": "accuracy",
    "WNLI": "accuracy",
    "SQuAD 1.1": "f1",
    "SQuAD 2.0": "f1",
    "CoNLL-2003": "f1",
    "SWAG": "accuracy",
}


@dataclass(frozen=True)
class Published:
    """A result of others: a percentage, and its standard deviation over seeds where it was given."""

    task: str
    metric: str
    split: Literal["dev", "test"]
    model: str
    value: float
    std: float | None
    source: str
    link: str
    certainty: str


def published(task: str, metric: str) -> list[Published]:
    """What is known of a task by this metric, in the order of the tables below."""
    return [entry for entry in PUBLISHED if (entry.task, entry.metric) == (task, metric)]


def _table(source: str, link: str, split: str, certainty: str, text: str) -> list[Published]:
    """The entries of a table: a header, then a model a line; `mean±std`, and - for none."""
    head, *lines = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
    link = f"https://arxiv.org/abs/{link}" if link[0].isdigit() else f"https://github.com/{link}"
    entries = []
    for model, *cells in lines:
        for column, cell in zip(head[1:], cells, strict=True):
            task, _, metric = column.partition("/")
            value, _, std = cell.partition("±")
            if value != "-":
                number = float(value), float(std) if std else None
                entries.append(Published(task, metric or "accuracy", split, model, *number, source, link, certainty))
    return entries


_BERT, _BERT_README = "1810.04805", "google-research/bert"
_HF = "huggingface/transformers/tree/v4.30.0/examples/"

PUBLISHED: tuple[Published, ...] = (
    *_table("Devlin et al. 2018, table 1", _BERT, "test", TRANSCRIBED, """
        model | MNLI | MNLI-mm | QQP/f1 | QNLI | SST-2 | CoLA/matthews | STS-B/spearman | MRPC/f1 | RTE
        BERT base | 84.6 | 83.4 | 71.2 | 90.5 | 93.5 | 52.1 | 85.8 | 88.9 | 66.4
        BERT large | 86.7 | 85.9 | 72.1 | 92.7 | 94.9 | 60.5 | 86.5 | 89.3 | 70.1
    """),
    *_table("Devlin et al. 2018, table 2", _BERT, "dev", TRANSCRIBED, """
        model | SQuAD 1.1/exact_match | SQuAD 1.1/f1
        BERT base | 80.8 | 88.5
        BERT large | 84.1 | 90.9
        BERT large, ensemble | 85.8 | 91.8
        BERT large, TriviaQA before | 84.2 | 91.1
        BERT large, TriviaQA before, ensemble | 86.2 | 92.2
    """),
    *_table("Devlin et al. 2018, table 2", _BERT, "test", TRANSCRIBED, """
        model | SQuAD 1.1/exact_match | SQuAD 1.1/f1
        BERT large, TriviaQA before | 85.1 | 91.8
        BERT large, TriviaQA before, ensemble | 87.4 | 93.2
    """),
    *_table("Devlin et al. 2018, table 3", _BERT, "dev", TRANSCRIBED, """
        model | SQuAD 2.0/exact_match | SQuAD 2.0/f1
        BERT large | 78.7 | 81.9
    """),
    *_table("Devlin et al. 2018, table 3", _BERT, "test", TRANSCRIBED, """
        model | SQuAD 2.0/exact_match | SQuAD 2.0/f1
        BERT large | 80.0 | 83.1
    """),
    *_table("Devlin et al. 2018, table 4", _BERT, "dev", TRANSCRIBED, """
        model | SWAG
        BERT base | 81.6
        BERT large | 86.6
    """),
    *_table("Devlin et al. 2018, table 4", _BERT, "test", TRANSCRIBED, """
        model | SWAG
        BERT large | 86.3
    """),
    *_table("Devlin et al. 2018, table 7", _BERT, "dev", TRANSCRIBED, """
        model | CoNLL-2003/f1
        BERT base | 96.4
        BERT large | 96.6
        BERT base, frozen: embeddings | 91.0
        BERT base, frozen: second-to-last hidden | 95.6
        BERT base, frozen: last hidden | 94.9
        BERT base, frozen: weighted sum of the last four | 95.9
        BERT base, frozen: concatenated last four | 96.1
        BERT base, frozen: weighted sum of all twelve | 95.5
    """),
    *_table("Devlin et al. 2018, table 7", _BERT, "test", TRANSCRIBED, """
        model | CoNLL-2003/f1
        BERT base | 92.4
        BERT large | 92.8
    """),
    *_table("Devlin et al. 2018, table 5", _BERT, "dev", TRANSCRIBED, """
        model | MNLI | QNLI | MRPC | SST-2 | SQuAD 1.1/f1
        BERT base | 84.4 | 88.4 | 86.7 | 92.7 | 88.5
        BERT base, no NSP | 83.9 | 84.9 | 86.5 | 92.6 | 87.9
        BERT base, left to right, no NSP | 82.1 | 84.3 | 77.5 | 92.1 | 77.8
        BERT base, left to right, no NSP, BiLSTM | 82.1 | 84.1 | 75.7 | 91.6 | 84.9
    """),
    *_table("Devlin et al. 2018, table 6", _BERT, "dev", TRANSCRIBED, """
        model | held-out text/perplexity | MNLI | MRPC | SST-2
        3 layers, width 768, 12 heads | 5.84 | 77.9 | 79.8 | 88.4
        6 layers, width 768, 3 heads | 5.24 | 80.6 | 82.2 | 90.7
        6 layers, width 768, 12 heads | 4.68 | 81.9 | 84.8 | 91.3
        12 layers, width 768, 12 heads | 3.99 | 84.4 | 86.7 | 92.9
        12 layers, width 1024, 16 heads | 3.54 | 85.7 | 86.9 | 93.3
        24 layers, width 1024, 16 heads | 3.23 | 86.6 | 87.8 | 93.7
    """),
    # Shares of [MASK], the same token, and a random one, of the tokens to predict.
    *_table("Devlin et al. 2018, table 8, fine-tuned", _BERT, "dev", TRANSCRIBED, """
        model | MNLI | CoNLL-2003/f1
        BERT base, 80/10/10 | 84.2 | 95.4
        BERT base, 100/0/0 | 84.3 | 94.9
        BERT base, 80/0/20 | 84.1 | 95.2
        BERT base, 80/20/0 | 84.4 | 95.2
        BERT base, 0/0/100 | 83.6 | 94.9
    """),
    *_table("Devlin et al. 2018, table 8, fine-tuned", _BERT, "dev", MEMORY, """
        model | MNLI | CoNLL-2003/f1
        BERT base, 0/20/80 | 83.7 | 94.8
    """),
    *_table("Devlin et al. 2018, table 8, frozen", _BERT, "dev", TRANSCRIBED, """
        model | CoNLL-2003/f1
        BERT base, 80/10/10, frozen | 94.9
        BERT base, 100/0/0, frozen | 94.0
        BERT base, 80/0/20, frozen | 94.6
        BERT base, 80/20/0, frozen | 94.7
        BERT base, 0/0/100, frozen | 94.6
    """),
    *_table("Devlin et al. 2018, table 8, frozen", _BERT, "dev", MEMORY, """
        model | CoNLL-2003/f1
        BERT base, 0/20/80, frozen | 94.6
    """),
    # Whole-word masking (WWM) with its own baselines; one run each.
    *_table("google-research/bert README", _BERT_README, "dev", READ, """
        model | MRPC | SQuAD 1.1/exact_match | SQuAD 1.1/f1 | MNLI
        BERT base uncased | 84.55 | 81.25 | 88.41 | -
        BERT large uncased, TPU recipe | - | 84.39 | 90.87 | -
        BERT large uncased | - | 84.3 | 91.0 | 86.05
        BERT large uncased, WWM | - | 86.7 | 92.8 | 87.07
        BERT large cased | - | 84.8 | 91.5 | 86.09
        BERT large cased, WWM | - | 86.7 | 92.9 | 86.46
    """),
    # Turc et al. 2019 (arXiv 1908.08962), the best of a search over batch size and learning rate, four epochs.
    *_table("google-research/bert README, small models", _BERT_README, "test", READ, """
        model | CoLA/matthews | SST-2 | MRPC/f1 | MRPC | STS-B/pearson | STS-B/spearman | QQP/f1 | QQP
        BERT tiny | 0.0 | 83.2 | 81.1 | 71.1 | 74.3 | 73.6 | 62.2 | 83.4
        BERT mini | 0.0 | 85.9 | 81.1 | 71.8 | 75.4 | 73.3 | 66.4 | 86.2
        BERT small | 27.8 | 89.7 | 83.4 | 76.2 | 78.8 | 77.0 | 68.1 | 87.0
        BERT medium | 38.0 | 89.6 | 86.6 | 81.6 | 80.4 | 78.4 | 69.6 | 87.9
    """),
    *_table("google-research/bert README, small models", _BERT_README, "test", READ, """
        model | MNLI | MNLI-mm | QNLI | RTE | WNLI
        BERT tiny | 70.2 | 70.3 | 81.5 | 57.2 | 62.3
        BERT mini | 74.8 | 74.3 | 84.1 | 57.9 | 62.3
        BERT small | 77.6 | 77.0 | 86.4 | 61.8 | 62.3
        BERT medium | 80.0 | 79.1 | 87.7 | 62.2 | 62.3
    """),
    # The mean of five seeds.
    *_table("transformers, Flax GLUE example", _HF + "flax/text-classification", "dev", READ, """
        model | CoLA/matthews | SST-2 | MRPC/f1 | MRPC | STS-B/pearson | STS-B/spearman | QQP | QQP/f1
        BERT base cased | 59.04±1.06 | 92.23±0.57 | 88.97±0.72 | 84.36±1.09 | 88.94±0.07 | 88.63±0.07 | 90.76±0.05 | 87.51±0.06
    """),  # noqa: E501
    *_table("transformers, Flax GLUE example", _HF + "flax/text-classification", "dev", READ, """
        model | MNLI | QNLI | RTE | WNLI
        BERT base cased | 83.80±0.16 | 90.82±0.17 | 64.76±1.04 | 37.01±6.83
    """),
    *_table("transformers, PyTorch GLUE example", _HF + "pytorch/text-classification", "dev", READ, """
        model | CoLA/matthews | SST-2 | MRPC/f1 | MRPC | STS-B/pearson | STS-B/spearman | QQP | QQP/f1
        BERT base cased | 56.53 | 92.32 | 88.85 | 84.07 | 88.64 | 88.48 | 90.71 | 87.49
    """),
    *_table("transformers, PyTorch GLUE example", _HF + "pytorch/text-classification", "dev", READ, """
        model | MNLI | MNLI-mm | QNLI | RTE | WNLI
        BERT base cased | 83.91 | 84.10 | 90.66 | 65.70 | 56.34
    """),
    *_table("transformers, Flax SQuAD example", _HF + "flax/question-answering", "dev", READ, """
        model | SQuAD 1.1/exact_match | SQuAD 1.1/f1
        BERT base uncased | 81.34 | 88.62
        BERT large uncased, WWM | 87.04 | 93.31
    """),
    # Pre-trained in JAX by its authors; the best of four learning rates.
    *_table("sabertooth README", "nikitakit/sabertooth", "dev", READ, """
        model | CoLA/matthews | SST-2 | MRPC/f1 | MRPC | STS-B/pearson | STS-B/spearman | QQP/f1 | QQP
        sabertooth base | 56.5 | 91.9 | 90.8 | 87.3 | 88.3 | 88.4 | 87.0 | 90.4
    """),
    *_table("sabertooth README", "nikitakit/sabertooth", "dev", READ, """
        model | MNLI | MNLI-mm | QNLI | RTE
        sabertooth base | 84.9 | 85.5 | 92.1 | 70.4
    """),
    # That SQuAD 2.0 is by F1, MRPC and QQP by accuracy, is not said there but in the paper.
    *_table("MiniLM README (arXiv 2002.10957)", "microsoft/unilm/tree/master/minilm", "dev", READ, """
        model | MNLI | SST-2 | QNLI | CoLA/matthews | RTE
        BERT base | 84.5 | 93.2 | 91.7 | 58.9 | 68.6
        MiniLM 12 layers, width 384 | 85.7 | 93.0 | 91.5 | 58.5 | 73.3
        MiniLM 6 layers, width 384 | 83.3 | 91.5 | 90.5 | 47.5 | 68.8
    """),
    *_table(
        "MiniLM README (arXiv 2002.10957)",
        "microsoft/unilm/tree/master/minilm",
        "dev",
        f"{READ}, its metric {MEMORY}",
        """
        model | SQuAD 2.0/f1 | MRPC | QQP
        BERT base | 76.8 | 87.3 | 91.3
        MiniLM 12 layers, width 384 | 81.7 | 89.5 | 91.3
        MiniLM 6 layers, width 384 | 75.6 | 88.9 | 90.6
    """),
    # Those of MRPC, QQP and STS-B have no metric there.
    *_table("DistilBERT README", _HF + "research_projects/distillation", "dev", READ, """
        model | CoLA/matthews | MNLI | QNLI | RTE | SST-2 | WNLI
        BERT base uncased | 56.3 | 84.7 | 91.8 | 69.3 | 92.7 | 53.5
        DistilBERT uncased | 51.3 | 82.1 | 89.2 | 59.9 | 91.3 | 56.3
        BERT base cased | 58.2 | 83.9 | 91.0 | 66.1 | 91.7 | 46.5
        DistilBERT cased | 47.2 | 81.5 | 88.2 | 60.6 | 90.4 | 56.3
    """),
    *_table("DistilBERT README", _HF + "research_projects/distillation", "dev", READ, """
        model | SQuAD 1.1/f1
        BERT base uncased | 88.5
        DistilBERT uncased | 86.9
        DistilBERT cased | 87.1
    """),
    # The median of many seeds.
    *_table("ELECTRA README (arXiv 2003.10555)", "google-research/electra", "dev", READ, """
        model | CoLA/matthews | SST-2 | MRPC | STS-B/spearman | QQP | MNLI | QNLI | RTE
        ELECTRA small | 57.0 | 91.2 | 88.0 | 87.5 | 89.0 | 81.3 | 88.4 | 66.7
        ELECTRA base | 67.7 | 95.1 | 89.5 | 91.2 | 91.5 | 88.8 | 93.2 | 82.7
        ELECTRA large | 69.1 | 96.9 | 90.8 | 92.6 | 92.4 | 90.9 | 95.0 | 88.0
    """),
)  # fmt: skip
