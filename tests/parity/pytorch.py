"""What both sides compute of one batch: outputs, loss, and the gradients of all parameters under PyTorch's names."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from bert_jax.interop import names

AUTO = {  # by what follows the name of the member
    "LMHeadModel": transformers.AutoModelForCausalLM,
    "Model": transformers.AutoModel,
    "ForPreTraining": transformers.AutoModelForPreTraining,
    "ForMaskedLM": transformers.AutoModelForMaskedLM,
    "ForNextSentencePrediction": transformers.AutoModelForNextSentencePrediction,
    "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
    "ForTokenClassification": transformers.AutoModelForTokenClassification,
    "ForQuestionAnswering": transformers.AutoModelForQuestionAnswering,
    "ForQuestionAnsweringSimple": transformers.AutoModelForQuestionAnswering,
    "ForMultipleChoice": transformers.AutoModelForMultipleChoice,
}


def opened(folder, name: str) -> torch.nn.Module:
    """Opens a folder by the Auto class, in float32, with attention written out, without dropout.

    Asserts that it is of the class of this name and that no tensor is missing or left over.
    """
    auto = next(auto for suffix, auto in AUTO.items() if name.endswith(suffix))
    model, info = auto.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    assert type(model).__name__ == name
    assert not any(info.values()), info
    assert model.dtype == torch.float32
    return model.eval()


def tensors(batch) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(np.asarray(value), dtype=torch.long) for name, value in batch.items()}


def theirs(model: torch.nn.Module, inputs, labels, head: str) -> tuple[dict, float, dict]:
    """(outputs by our names, loss, gradients by their names) of `inputs` and `labels`, which are arguments of theirs.

    Args:
        head: what we call the `logits` of a model with a single head.
    """
    model.zero_grad()
    found = model(**tensors(inputs), **tensors(labels), output_hidden_states=True)
    outputs = {"hidden": found.hidden_states[-1]}
    if model.config.model_type == "fnet":  # whose list lacks the last
        rows = {name: value.reshape(-1, value.shape[-1]) for name, value in tensors(inputs).items()}
        outputs["hidden"] = model.base_model(**rows).last_hidden_state
    pooler = getattr(model.base_model, "pooler", None)
    if isinstance(pooler, torch.nn.Linear):  # ALBERT's
        outputs["pooled"] = model.base_model.pooler_activation(pooler(outputs["hidden"][:, 0]))
    elif pooler is not None:
        outputs["pooled"] = pooler(outputs["hidden"])
    if "sop_logits" in found:
        outputs |= {"mlm_logits": found.prediction_logits, "sop_logits": found.sop_logits}
    elif "prediction_logits" in found:
        outputs |= {"mlm_logits": found.prediction_logits, "nsp_logits": found.seq_relationship_logits}
    elif "start_logits" in found:
        outputs[head] = torch.stack([found.start_logits, found.end_logits], -1)
    else:
        outputs[head] = found.logits
    found.loss.backward()
    return (
        {name: value.detach().float().numpy() for name, value in outputs.items()},
        found.loss.item(),
        gradients(model),
    )


def gradients(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The gradients of all parameters. Without tying, what counts is the decoder's bias, which is the head's here."""
    found = dict(model.named_parameters())
    for head in ("cls.predictions", "predictions", "lm_head"):
        if f"{head}.decoder.bias" in found:
            found[f"{head}.bias"] = found.pop(f"{head}.decoder.bias")
    # Of a pooler that nothing reads there is none.
    return {
        name: np.zeros(parameter.shape) if parameter.grad is None else parameter.grad.double().numpy()
        for name, parameter in found.items()
    }


def ours(model, params, batch, dtype: str = "float32") -> tuple[dict, float, dict]:
    """The same of our model, its batch with the objectives' labels."""
    model = model.clone(encoder=model.encoder.clone(dtype=dtype))

    @jax.jit
    def compute(params, batch):
        def loss(params):
            return model.loss_of(model.apply({"params": params}, batch))

        value, gradient = jax.value_and_grad(loss)(params)
        return model.apply({"params": params}, batch, method="outputs"), value, gradient

    outputs, loss, gradient = compute(params, jax.tree.map(jnp.asarray, batch))
    for name in ("layers", "embeddings"):
        del outputs[name]
    outputs = {name: np.asarray(value, np.float32) for name, value in outputs.items()}
    return outputs, float(loss), names.from_params(gradient, model.encoder, model.objectives, "huggingface")


def with_own_scale(gradient: dict) -> dict:
    """The same gradients, those that are zero but for rounding joined with a neighbour that gives them a scale.

    Softmax does not see what is added to all its inputs alike. So a bias on all keys has no gradient; nor has, in front
    of the softmax over a row's positions that finds spans, a bias on all of them.
    """
    joined = dict(gradient)
    pairs = [(name.replace("key", "query"), name) for name in gradient if name.endswith("key.bias")]
    pairs += [(name.replace("k_lin", "q_lin"), name) for name in gradient if name.endswith("k_lin.bias")]
    pairs += [(name.replace("attn.k.", "attn.q."), name) for name in gradient if name.endswith("attn.k.bias")]
    if gradient.get("classifier.bias", np.zeros(2)).shape == (1,):  # of choices: a softmax over rows
        pairs.append(("classifier.weight", "classifier.bias"))
    if "qa_outputs.bias" in gradient:
        ends = ("output.LayerNorm.bias", "output_layer_norm.bias", "full_layer_layer_norm.bias", "ff.layer_norm.bias")
        last = max(name for name in gradient if name.endswith(ends) and "attention" not in name)
        pairs += [(name.replace("bias", "weight"), name) for name in ("qa_outputs.bias", last)]
    for scale, name in pairs:
        joined[f"{scale} and {name}"] = np.concatenate([joined.pop(scale).ravel(), joined.pop(name)])
    return joined
