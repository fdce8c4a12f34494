"""What is trained: a Linen module with `(batch, train) -> metrics`, all that the loop knows of a model."""
