"""The error for arguments, weights and checkpoints that a model cannot be built from."""


class ModelError(ValueError):
    """Error in a model's arguments, weights or checkpoint: one line that names what is wrong and what is allowed."""
