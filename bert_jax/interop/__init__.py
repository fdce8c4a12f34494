"""Weights in and out: what others' checkpoints are called and how they are laid out, in both directions.

`names.py` is the one table of parameters; `tensors.py` reads and writes files of tensors, `huggingface.py` and
`google.py` the folders around them.
"""
