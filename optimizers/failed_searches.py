"""A warning about searches that fail one after the other."""

from __future__ import annotations

import warnings

# How many searches in a row have to fail before a warning.
MANY_FAILURES = 10


def warn_of_failures(optimizer: str, unit: str | None = None) -> None:
    """Warn that searches fail one after the other, and say what to check.

    Args:
        optimizer: The optimizer's name.
        unit: The name of the part that was searched. None: the whole model.
    """
    of_unit = "" if unit is None else f" of {unit}"
    warnings.warn(
        f"{optimizer}: {MANY_FAILURES} searches{of_unit} in a row found no step size that lowers the loss. Unless the "
        "loss is as low as it gets, check that closure and evaluate compute the same loss: the same batch, the same "
        "dropout masks (closure, evaluate = optimizers.replayed(closure, evaluate, model)), the same mean; and that "
        "the gradients are of that loss, not clipped or scaled",
        stacklevel=3,
    )
