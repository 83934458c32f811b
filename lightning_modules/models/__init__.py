"""Hugging Face models: loading them, adapters, and how they are computed."""
