"""Finished runs as tables and pictures, beside published results."""
