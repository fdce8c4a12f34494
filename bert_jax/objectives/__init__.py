"""Corruption, head and loss in one file each; an objective is all that a learner knows of a task.

An objective is a Linen module with
- `corrupt(keys, batch) -> batch`: what happens to the inputs before the encoder, without parameters; `keys` [B] is one
  random key per row, so that the outcome depends on the example and not on its place in a batch;
- `__call__(encoded, batch, train) -> {"loss": Mean, ...}`;
- `predict(encoded, batch) -> {name: array with leading axis B}`; of each token: [B, L, C];
- `outputs(encoded) -> {name: array with leading axis B}`: its logits, for those who hold a loaded model;
- `check_encoder(encoder)`: raises ValueError for an encoder that it makes no sense over, where there are such;
- `pairs`: which pairs of segments the corpus must have, where its labels are of such.
Every average is weighted by `batch["weight"]` [B], which is 0 in the filler rows of a ragged last batch. So that a
batch can be computed in micro-batches, totals and counts are sums over rows, counts do not depend on parameters, and a
head's dropout is a function of the number of the row (`Places.of_array(shape, encoded.row)`).
"""
