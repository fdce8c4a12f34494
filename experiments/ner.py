"""Fine-tunes a pre-trained encoder to find names, on CoNLL-2003 as the paper does (Devlin et al. 2018, section 5.3).

    python experiments/ner.py --workdir runs/conll2003 --init-from bert-base-cased \
        --data.train eng.train --data.valid eng.testa

A cased encoder, a class for the first token of each word, no CRF, rows filled with the document around the sentence.
The paper fine-tunes with batches of 16 or 32, learning rates 5e-5, 3e-5 or 2e-5 and two to four epochs, and takes the
best on the development set. Published (F1): base 96.4 development, 92.4 test; large 96.6 and 92.8 (table 7).

The same data from TFDS, which has no documents:

    ... --data.train tfds:conll2003@train --data.valid tfds:conll2003@dev --data.word-column tokens \
        --data.tag-column ner --no-document-context --max-length 128

WNUT-17, names that are rare and new, of single messages, with its second metric (Derczynski et al. 2017):

    ... --data.train wnut17train.conll --data.valid emerging.dev.conll --data.scheme bio --no-document-context \
        --max-length 128 --surface-f1 --name WNUT-17
"""

from pathlib import Path

from bert_jax.data.conll import TaggedFiles
from bert_jax.experiment import Experiment
from bert_jax.learners.multitask import Multitask
from bert_jax.objectives.tag import Tag
from bert_jax.tasks.tagging import Tagging
from bert_jax.train import main
from bert_jax.training.optim import BertAdam


def config() -> Experiment:
    return Experiment(
        task=Tagging(
            TaggedFiles("eng.train", ("eng.testa",), scheme="iob1"),
            max_length=512,
            document_context=True,
            name="CoNLL-2003",
        ),
        learner=Multitask(None, {"tag": Tag()}),
        optimizer=BertAdam(learning_rate=5e-5, warmup=0.1),
        init_from=Path("bert-base-cased"),
        dropout=0.1,
        batch_size=32,
        eval_batch_size=32,
        epochs=4.0,
        best_metric="valid/tag/f1",
        log_every=100,
    )


if __name__ == "__main__":
    main(config)
