"""The error for arguments, weights and checkpoints that a model cannot be built from; the first line of any error."""


class ModelError(ValueError):
    """Error in a model's arguments, weights or checkpoint: one line that names what is wrong and what is allowed."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's text; its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
