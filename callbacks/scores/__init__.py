"""Predictions of a validation, gathered from all processes, and the scores that are computed from them."""
