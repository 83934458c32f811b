"""Batches of tokenized rows: which rows are together, and how they are padded."""
