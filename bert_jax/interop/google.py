"""The original's layout: `bert_config.json`, a TF1 checkpoint `bert_model.ckpt.*`, `vocab.txt`.

TensorFlow itself reads and writes the checkpoint, as an extra (`pip install 'bert_jax[tensorflow]'`): no small, kept
package does.
"""

import json
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from bert_jax.interop import huggingface, names
from bert_jax.interop.checkpoint import ForeignCheckpoint, assemble
from bert_jax.interop.members.bert import FIELDS
from bert_jax.models.bert import Bert
from bert_jax.objectives.classify import Classify
from bert_jax.objectives.mlm import Mlm
from bert_jax.objectives.nsp import Nsp
from bert_jax.objectives.span import Span

CONFIG, CHECKPOINT = "bert_config.json", "bert_model.ckpt"
# modeling.py:264-307: its gelu is the tanh approximation.
ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu"}
NORM_EPSILON = 1e-12
# Of the optimizer, not of the model (optimization.py:118-129).
_NOT_WEIGHTS = ("/adam_m", "/adam_v", "global_step")


def read(folder: Path) -> ForeignCheckpoint:
    """Opens a folder.

    Raises FileNotFoundError for a file that is missing; ValueError for what is damaged or does not fit; ImportError
    without TensorFlow.
    """
    config = _read_config(folder / CONFIG)
    prefix = _prefix(folder)
    state = _read_checkpoint(prefix)
    objectives: dict[str, nn.Module] = {}
    encoder = huggingface.encoder_of(config, pooler="bert/pooler/dense/kernel" in state, source=folder / CONFIG)
    encoder = encoder.clone(activation=ACTIVATIONS[config["hidden_act"]])
    if "cls/predictions/output_bias" in state:
        objectives["mlm"] = Mlm(
            activation=encoder.activation, norm_epsilon=encoder.norm_epsilon, init_stddev=encoder.init_stddev
        )
    if "cls/seq_relationship/output_weights" in state:
        objectives["nsp"] = Nsp(init_stddev=encoder.init_stddev)
    if "cls/squad/output_weights" in state:
        objectives["span"] = Span(init_stddev=encoder.init_stddev)
    if "output_weights" in state:
        objectives["classify"] = Classify(state["output_weights"].shape[0], init_stddev=encoder.init_stddev)
    return assemble(state, encoder, objectives, "google", prefix)


def write(folder: Path, checkpoint: ForeignCheckpoint) -> None:
    """Writes `bert_config.json` and the checkpoint into a folder that is there.

    Raises ValueError for what the original has not: an activation, an untied decoder, an epsilon other than 1e-12, a
    head, causal attention; ImportError without TensorFlow, RuntimeError where its eager execution was switched off.
    """
    encoder = checkpoint.encoder
    if not isinstance(encoder, Bert):
        raise ValueError(f"the original is BERT, and {CONFIG} has no {type(encoder).__name__}")
    if encoder.causal:
        raise ValueError(f"the encoder is causal, which the original's is not and {CONFIG} cannot say")
    activation = next((theirs for theirs, ours in ACTIVATIONS.items() if ours == encoder.activation), None)
    if activation is None:
        raise ValueError(
            f"activation {encoder.activation!r} has no name in {CONFIG}: the original's gelu is the tanh one. "
            "tools/convert_checkpoint.py --activation gelu_tanh takes that on, and shows what it changes"
        )
    if encoder.norm_epsilon != NORM_EPSILON:
        raise ValueError(
            f"norm_epsilon {encoder.norm_epsilon} cannot be said in {CONFIG}: the original's is {NORM_EPSILON}"
        )
    for name, head in checkpoint.objectives.items():
        if not isinstance(head, Mlm | Nsp | Span | Classify):
            kind = type(head).__name__
            raise ValueError(f"the original has no head as {name!r} ({kind}): choose others with `heads`")
        if isinstance(head, Mlm) and (head.activation, head.norm_epsilon) != (encoder.activation, NORM_EPSILON):
            raise ValueError(
                f"activation and norm_epsilon are {head.activation!r} and {head.norm_epsilon} in the head {name!r}, "
                f"{encoder.activation!r} and {encoder.norm_epsilon} in the encoder: {CONFIG} has one field for both"
            )
    config = {theirs: getattr(encoder, ours) for theirs, ours in FIELDS.items()}
    del config["layer_norm_eps"]
    config["hidden_act"] = activation
    state = names.from_params(checkpoint.params, encoder, checkpoint.objectives, "google")
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensorflow = _tensorflow()
    if not tensorflow.executing_eagerly():
        raise RuntimeError("TensorFlow's eager execution is off in this process, and without it nothing is written")
    tensorflow.raw_ops.SaveV2(
        prefix=str(folder / CHECKPOINT),
        tensor_names=list(state),
        shape_and_slices=[""] * len(state),
        tensors=[tensorflow.constant(value) for value in state.values()],
    )


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("hidden_act") not in tuple(ACTIVATIONS):
        found = config.get("hidden_act") if isinstance(config, dict) else config
        raise ValueError(f"{file}: hidden_act {found!r} is none of {', '.join(ACTIVATIONS)}")
    # modeling.py:43: 16 where it is not said. The epsilon is never said (modeling.py:362-365: contrib's layer norm).
    return {"type_vocab_size": 16} | config | {"layer_norm_eps": NORM_EPSILON}


def _prefix(folder: Path) -> Path:
    """The checkpoint of a folder, without the endings of its files."""
    found = sorted(path.with_suffix("") for path in folder.glob("*.index"))
    if len(found) != 1:
        listing = ", ".join(path.name for path in found) or "none"
        raise FileNotFoundError(f"{folder} must hold one TF1 checkpoint ({CHECKPOINT}.index); found {listing}")
    prefix = found[0].name
    parts = [
        re.fullmatch(r"\.data-\d{5}-of-(\d{5})", path.name[len(prefix) :]) for path in folder.glob(f"{prefix}.data-*")
    ]
    counts = [int(part[1]) for part in parts if part] or [1]
    for ending in (f".data-{part:05d}-of-{counts[0]:05d}" for part in range(counts[0])):
        if not (folder / f"{prefix}{ending}").exists():
            raise FileNotFoundError(f"{folder} lacks {prefix}{ending}: the download is incomplete")
    return found[0]


def _read_checkpoint(prefix: Path) -> dict[str, np.ndarray]:
    tensorflow = _tensorflow()
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        wanted = [name for name in reader.get_variable_to_shape_map() if not name.endswith(_NOT_WEIGHTS)]
        return {name: reader.get_tensor(name) for name in wanted}
    except (tensorflow.errors.OpError, RuntimeError, LookupError, ValueError) as error:
        raise ValueError(f"{prefix}.* is cut off or damaged: {error}") from error


def _tensorflow():
    try:
        import tensorflow
    except ImportError as error:
        raise ImportError(
            "TF1 checkpoints are read and written by TensorFlow: pip install 'bert_jax[tensorflow]'"
        ) from error
    return tensorflow
