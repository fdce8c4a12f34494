"""Text to token ids and back: tokenizers, their training, sentences. No jax, so that data workers stay light."""
