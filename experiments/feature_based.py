"""Features of an encoder that is not trained: six kinds, on CoNLL-2003 (Devlin et al. 2018, section 5.3 and table 7).

    python experiments/feature_based.py --workdir runs/features --init-from bert-base-cased \
        --data.train eng.train --data.valid eng.testa

trains the six rows of the table one after the other, each in a folder of the workdir, and writes `table.md`; the same
command continues after an interruption. The head is the paper's, a two-layer BiLSTM of 768 before the classification
layer; `--learner.objectives.tag.features.lstm-width 0` is a linear layer, the cheap choice. The paper does not say how
the head is trained: the learning rate and the epochs here are a guess. All flags of `experiments/ner.py`, which
fine-tunes instead, are here, too; `--seeds 5` gives mean and standard deviation.

What is frozen is computed anew at every step; compared with fine-tuning its backward pass is saved.
"""

import dataclasses
import math
from pathlib import Path

from rich.console import Console

from bert_jax.data.conll import TaggedFiles
from bert_jax.experiment import Experiment, one_line_errors, parse
from bert_jax.learners.multitask import Multitask
from bert_jax.matrix import Cell, markdown, mean_and_std, train_cells
from bert_jax.models.frozen import Frozen
from bert_jax.objectives.tag import Tag
from bert_jax.resolve import resolve
from bert_jax.tasks.tagging import Tagging
from bert_jax.training.optim import BertAdam

# name: (layers, how they are combined, F1 that the paper reports for BERT-base on the development set)
ROWS = {
    "embeddings": ((0,), "concat", 91.0),
    "second-to-last hidden": ((-2,), "concat", 95.6),
    "last hidden": ((-1,), "concat", 94.9),
    "weighted sum last four hidden": ((-4, -3, -2, -1), "weighted", 95.9),
    "concat last four hidden": ((-4, -3, -2, -1), "concat", 96.1),
    "weighted sum all layers": ((), "weighted", 95.5),
}


def config() -> Experiment:
    return Experiment(
        task=Tagging(
            TaggedFiles("eng.train", ("eng.testa",), scheme="iob1"),
            max_length=512,
            document_context=True,
            name="CoNLL-2003",
        ),
        learner=Multitask(None, {"tag": Tag(features=Frozen(lstm_width=768))}),
        optimizer=BertAdam(learning_rate=1e-3, warmup=0.1, bias_correction=True),
        init_from=Path("bert-base-cased"),
        batch_size=32,
        eval_batch_size=32,
        epochs=10.0,
        best_metric="valid/tag/f1",
        log_every=100,
    )


def cells_of(experiment: Experiment, workdir: Path) -> dict[str, Cell]:
    """The runs of the table by the name of their row: the experiment with other layers."""
    cells = {}
    for name, (layers, combine, _) in ROWS.items():
        head = experiment.learner.objectives["tag"]
        head = head.clone(features=head.features.clone(layers=layers, combine=combine))
        learner = experiment.learner.clone(objectives={"tag": head})
        own = dataclasses.replace(experiment, learner=learner)
        cells[name] = Cell(own, workdir / name.replace(" ", "-"), experiment.best_metric)
    return cells


def main() -> None:
    """Runs the command line; bad input ends with one line."""
    console = Console()
    with one_line_errors():
        workdir, experiment = parse(config)
        cells = cells_of(experiment, workdir)
        if unfinished := [cell for cell in cells.values() if not cell.results()]:
            resolve(unfinished[0].experiment)
        failed = train_cells(list(cells.values()), console)
    rows = []
    for name, cell in cells.items():
        mean, std = (math.nan, math.nan) if cell.workdir in failed else mean_and_std(cell.values())
        entry = f"{100 * mean:.1f}" + ("" if math.isnan(std) else f" ± {100 * std:.1f}")
        rows.append([name, "diverged" if math.isnan(mean) else entry, f"{ROWS[name][2]}"])
    table = markdown([experiment.task.name, experiment.best_metric, "BERT-base, CoNLL-2003"], rows)
    (workdir / "table.md").write_text(table + "\n", encoding="utf-8")
    console.print(table, soft_wrap=True, markup=False, highlight=False)


if __name__ == "__main__":
    main()
