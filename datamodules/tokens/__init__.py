"""Tokenization: loading a tokenizer, and running it on many texts fast."""
