"""What is trained: a Linen module with `(batch, train) -> metrics`, all that the loop knows of a model.

A learner has
- `encoder`, whose sizes the data is checked against, and `objectives`, its heads by name;
- `for_vocabulary(vocab_size, special_ids)`, `corrupt(key, step, batch)`, `loss_of(metrics)`, `predict(batch)`;
- `as_multitask()`, if it is not a `Multitask` itself: the model that `load` opens a run of it as, with parameters of
  the same names;
and may have
- `read_only`: top-level names of parameters that the optimizer does not see;
- `starting_from(model, params)`: itself and what it begins with, where it takes over a checkpoint in a way of its own.
"""
