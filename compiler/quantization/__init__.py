"""Fewer bits: what calibration sees of a model, and the numbers that its layers compute with."""
