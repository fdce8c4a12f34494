"""Fine-tunes a pre-trained encoder on a task of GLUE (Devlin et al. 2018, section 4.1 and table 1).

    python experiments/glue.py --task CoLA --folder GLUE --workdir runs/cola --init-from bert-base-uncased

The tasks are CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE and WNLI. GLUE is the folder of the official download, or
tfds:glue. `--task CoLA --help` lists the flags of a task.

Three epochs of 32 rows, as in the paper, which searches the learning rate over 5e-5, 4e-5, 3e-5, 2e-5 on the dev set.
Turc et al. 2019 (arXiv 1908.08962) train the small models for four epochs and search over 3e-4, 1e-4, 5e-5, 3e-5:
`--epochs 4 --optimizer.learning-rate 1e-4`. On CoLA, MRPC, RTE and STS-B some seeds fail (Devlin et al. restarted):
`--optimizer.bias-correction` and more epochs help (Mosbach et al. 2021, arXiv 2006.04884), and `--seeds 5` shows it.

`tools/glue_submission.py` makes of the finished runs what gluebenchmark.com wants.
"""

from pathlib import Path

from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.regress import Regress
from bert_jax.tasks.glue import Name, best_metric, glue
from bert_jax.tasks.regression import Regression
from bert_jax.train import main
from bert_jax.training.optim import BertAdam


def config(task: Name, folder: str = "GLUE") -> Experiment:
    """The experiment of a task.

    Args:
        task: its name.
        folder: of the data of all tasks, or tfds:glue.
    """
    data = glue(task, folder)
    heads = {"regress": Regress()} if isinstance(data, Regression) else {"classify": Classify()}
    return Experiment(
        task=data,
        learner=Multitask(None, heads),
        optimizer=BertAdam(learning_rate=5e-5, warmup=0.1),
        init_from=Path("bert-base-uncased"),
        dropout=0.1,
        batch_size=32,
        epochs=3.0,
        best_metric=best_metric(data),
        log_every=100,
    )


if __name__ == "__main__":
    main(config)
