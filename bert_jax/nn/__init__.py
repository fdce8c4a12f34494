"""Maths on arrays: the modules and functions that encoders and objectives are composed of.

Axis letters, the same in einsums, annotations, parameter axes and sharding rules:
`B` batch, `L` query length, `M` key length, `D` model width, `H` heads, `K` head width, `J` query/key/value,
`F` feed-forward width, `G` what is activated/its gate, `V` vocabulary, `S` segment types, `P` predicted positions,
`C` classes, `N` layers, `E` factorised embedding width, `R` relative distances, `T` tokens of two streams.
"""
