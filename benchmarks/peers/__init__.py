"""Optimizers of others that no kept package has in a form that a training step can run, each written from its paper."""
