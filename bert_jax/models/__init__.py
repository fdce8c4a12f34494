"""Encoders: one file per family member."""
