"""A task is where examples come from and what their predictions are compared with.

A task has
- `tokenizer()`: that of its data, or None where the checkpoint's is used;
- `train(tokenizer)` -> source, `evaluations(tokenizer)` -> {name: source}; a source has a `max_length`;
- `prepare(learner)`: the learner with what only the data knows (the number of classes);
- `baselines(train, evaluation)` -> {metric: value}: what an answer that ignores the input reaches;
- `score(predictions, evaluation)` -> {metric: value}: what is no mean over examples, from all predictions of a set,
  under the names `metric_names`;
- `rows(predictions, evaluation)`: the rows of the predictions file;
- `preview(train, tokenizer)`: lines for the reader of the log: examples as the model reads them, what was cut, or left
  out.
"""
