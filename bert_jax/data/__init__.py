"""Text files and data sets to batches of arrays: documents, pre-training corpora, loaders. Never imports jax."""
