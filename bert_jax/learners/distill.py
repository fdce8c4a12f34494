"""Distillation of a pre-trained model into a smaller one: DistilBERT (Sanh et al. 2019, arXiv 1910.01108).

The losses are those of its training code, transformers `examples/research_projects/distillation/distiller.py`
(`Distiller.step`), the first weights those of `scripts/extract_distilbert.py` with `--vocab_transform`.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from bert_jax.learners.multitask import Multitask
from bert_jax.nn.losses import Mean


class Distill(nn.Module):
    """`Distill(distilbert("base"), {"mlm": Mlm(activation="gelu")})`, a student of the model in `init_from`.

    The loss is the sum of three means: the student's own masked-LM loss, the divergence of its predictions from the
    teacher's, and the angle between their last hidden states. The student begins with the teacher's embeddings, with
    layers of it evenly spaced from the first to the last (0 2 4 7 9 11 of 12), and with its masked-LM head. The teacher
    sees segments, if it has any, and no dropout; it is never changed.

    Attributes:
        encoder: of the student, as wide as the teacher.
        objectives: the masked LM alone, called "mlm".
        teacher: its encoder; None stands for that of the checkpoint that training starts from.
        teacher_head: its masked LM; None likewise.
        temperature: that both predictions are softened with.
        soft_weight, mlm_weight, cosine_weight: of the losses.
        only_predicted: compare predictions at the masked positions alone (their `restrict_ce_to_mask`), which takes
            L / P times less memory and time for them; by default at every token.
    """

    encoder: Any
    objectives: Mapping[str, nn.Module]
    teacher: Any = None
    teacher_head: Any = None
    temperature: float = 2.0
    soft_weight: float = 5.0
    mlm_weight: float = 2.0
    cosine_weight: float = 1.0
    only_predicted: bool = False

    # What the optimizer does not see.
    read_only = ("teacher", "teacher_head")

    @nn.nowrap
    def as_multitask(self) -> Multitask:
        """The student alone: what `load` opens a run as."""
        return Multitask(self.encoder, self.objectives, parent=None)

    @nn.nowrap
    def starting_from(self, model: Multitask, params: Mapping[str, Any] | None) -> tuple["Distill", dict[str, Any]]:
        """The learner with its teacher, and the parameters that both of them begin with.

        Raises ValueError for a teacher without weights or without a masked LM, of another width or with fewer layers,
        and for objectives other than the one masked LM.
        """
        if params is None:
            raise ValueError("the teacher has no weights (random_weights), and they are what is distilled")
        if list(self.objectives) != ["mlm"]:
            raise ValueError(f"distillation has one objective, 'mlm', and not {', '.join(self.objectives) or 'none'}")
        if "mlm" not in model.objectives:
            raise ValueError(f"the teacher has no masked LM, only {', '.join(model.objectives) or 'its encoder'}")
        teacher, student, head = model.encoder, self.encoder, model.objectives["mlm"]
        for name, encoder in (("teacher", teacher), ("student", student)):
            if encoder.layer_sets != encoder.num_layers:
                raise ValueError(
                    f"the layers of the {name} share their parameters ({encoder.layer_sets} for {encoder.num_layers}): "
                    "there are none to choose the student's from"
                )
        for field, fits in (("width", int.__eq__), ("max_length", int.__ge__), ("num_layers", int.__ge__)):
            there, here = getattr(teacher, field), getattr(student, field)
            if not fits(there, here):
                raise ValueError(f"the student has {field} {here}, which the teacher with {there} cannot start")
        learner = self.clone(teacher=teacher.clone(dtype=student.dtype), teacher_head=head)
        encoder = dict(params["encoder"])
        embeddings = dict(encoder["embeddings"])
        if "positions" in embeddings:
            rows = student.max_length + len(embeddings["positions"]["table"]) - teacher.max_length
            embeddings["positions"] = {"table": embeddings["positions"]["table"][:rows]}
        if not student.segment_types:
            embeddings.pop("segments", None)
        chosen = np.round(np.linspace(0, teacher.num_layers - 1, student.num_layers)).astype(int)
        layers = jax.tree.map(lambda leaf: leaf[chosen], encoder["layers"])
        rest = {name: part for name, part in encoder.items() if name not in ("embeddings", "layers", "pooler")}
        if getattr(student, "pooler", False) and "pooler" in encoder:
            rest["pooler"] = encoder["pooler"]
        return learner, {
            "encoder": {"embeddings": embeddings, "layers": layers} | rest,
            "objectives_mlm": params["objectives_mlm"],
            "teacher": encoder,
            "teacher_head": params["objectives_mlm"],
        }

    @nn.nowrap
    def for_vocabulary(self, vocab_size: int, special_ids: tuple[int, ...]) -> "Distill":
        """The same learner over a vocabulary; as `Multitask.for_vocabulary`. Raises ValueError without a teacher."""
        if self.teacher is None:
            raise ValueError("there is no teacher: give init_from, a model to distil")
        student = self.as_multitask().for_vocabulary(vocab_size, special_ids)
        return self.clone(encoder=student.encoder, objectives=student.objectives)

    @nn.nowrap
    def corrupt(self, key: Key[Array, ""], step: Array | int, batch: Mapping[str, Array]) -> dict[str, Array]:
        """As `Multitask.corrupt`."""
        return self.as_multitask().corrupt(key, step, batch)

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], train: bool = False) -> dict[str, Mean]:
        """Metrics by name: `mlm/loss`, `mlm/accuracy`; `soft/loss` in nats, without the square of the temperature;
        `cosine/loss`, from 0 to 2."""
        student, teacher = self.encoder(batch, train), self.teacher(batch, False)
        mlm = self.objectives["mlm"]
        metrics = {f"mlm/{name}": mean for name, mean in mlm(student, batch, train).items()}
        columns = jnp.arange(batch["tokens"].shape[1])
        weights = (columns < batch["lengths"][:, None]) * batch["weight"][:, None]
        apart = 1 - _cosine(student.hidden, jax.lax.stop_gradient(teacher.hidden))
        metrics["cosine/loss"] = Mean.of(apart, weights)
        if self.only_predicted:
            places = batch["mlm_positions"][..., None]
            student, teacher = (
                encoded._replace(hidden=jnp.take_along_axis(encoded.hidden, places, axis=1))
                for encoded in (student, teacher)
            )
            weights = batch["mlm_weights"]
        found = mlm.outputs(student)["mlm_logits"]
        wanted = jax.lax.stop_gradient(self.teacher_head.outputs(teacher)["mlm_logits"])
        metrics["soft/loss"] = Mean.of(_divergence(wanted / self.temperature, found / self.temperature), weights)
        return metrics

    def loss_of(self, metrics: Mapping[str, Mean]) -> Float[Array, ""]:
        """The weighted sum; gradients of softened predictions are smaller by the square of the temperature (Hinton et
        al. 2015, arXiv 1503.02531, section 2), which is made up for."""
        return (
            self.soft_weight * self.temperature**2 * metrics["soft/loss"].value
            + self.mlm_weight * metrics["mlm/loss"].value
            + self.cosine_weight * metrics["cosine/loss"].value
        )

    def predict(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Nothing, as of pre-training."""
        return {}


def _cosine(a: Float[Array, "B L D"], b: Float[Array, "B L D"]) -> Float[Array, "B L"]:
    """The cosine of the angle between two vectors; 0 at padding that is but zeros."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    squares = jnp.sum(a * a, axis=-1) * jnp.sum(b * b, axis=-1)
    return jnp.sum(a * b, axis=-1) * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))


def _divergence(wanted: Float[Array, "B P V"], found: Float[Array, "B P V"]) -> Float[Array, "B P"]:
    """Kullback-Leibler divergence of the distribution of the second logits from that of the first, in nats."""
    wanted, found = jax.nn.log_softmax(wanted, axis=-1), jax.nn.log_softmax(found, axis=-1)
    return jnp.sum(jnp.exp(wanted) * (wanted - found), axis=-1)
