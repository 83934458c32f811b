"""AdamW under Mechanic (Cutkosky et al., arXiv 2306.00144), as a class that a config can name."""

from __future__ import annotations

import mechanic_pytorch
from torch.optim import AdamW


class MechanicAdamW(mechanic_pytorch.mechanize(AdamW)):  # type: ignore[misc]
    """AdamW whose steps are scaled by what Mechanic finds; the package makes such classes at run time.

    The package's own constants, ``s_decay`` = 0.01 among them, are those that the authors used in all experiments.

    Example::

        MechanicAdamW(model.parameters(), lr=1.0)
    """
