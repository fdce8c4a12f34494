"""A task is where examples come from and what their predictions are compared with.

A task has
- `tokenizer()`: that of its data, or None where the checkpoint's is used;
- `train(tokenizer)` -> source, `evaluations(tokenizer)` -> {name: source}; a source has a `max_length`;
- `prepare(learner)`: the learner with what only the data knows (the number of classes);
- `baselines(train, evaluation)` -> {metric: value}: what an answer that ignores the input reaches;
- `rows(predictions, evaluation)`: the rows of the predictions file.
"""
