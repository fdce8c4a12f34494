"""Prediction on text: the model over rows of any length, and what the predictors make of it."""
