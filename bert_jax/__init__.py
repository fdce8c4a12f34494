"""BERT and its family in JAX/Flax, from raw text to reproduced tables."""
