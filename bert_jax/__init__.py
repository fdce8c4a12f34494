"""BERT and its family in JAX/Flax, from raw text to reproduced tables."""

import importlib
from typing import Any

# Opened on first use, so that data workers import the package without jax.
_LAZY = {"load": "bert_jax.pretrained", "Pretrained": "bert_jax.pretrained"}
__all__ = ["Pretrained", "load"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'bert_jax' has no attribute {name!r}")
