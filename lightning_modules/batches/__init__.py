"""Batches of tokens: what is in them, and how their padding is left out."""
