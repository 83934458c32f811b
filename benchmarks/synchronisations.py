"""How often a step waits for the GPU, beside its number of trials.

python -m benchmarks.synchronisations
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import AdamW

from benchmarks import markdown
from optimizers import GLD, AdamSLS, LineSearchMeZO, MeZO, ParabolicAdam, SaLSA

STEPS = 20
METHODS: dict[str, Callable[..., Any]] = {
    "AdamW": partial(AdamW, lr=1e-3, fused=True),
    "ParabolicAdam": partial(ParabolicAdam, total_steps=STEPS),
    "SaLSA": SaLSA,
    "AdamSLS": AdamSLS,
    "MeZO": MeZO,
    "LineSearchMeZO": LineSearchMeZO,
    "GLD": GLD,
}


def count(name: str) -> tuple[float, float]:
    """Return the synchronisations and the trials of a step of a small network, means over all steps but the first."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.Dropout(0.1), nn.Tanh(), nn.Linear(256, 2)).cuda()
    inputs = torch.randn(STEPS, 32, 64, device="cuda")
    labels = (inputs[..., 0] > 0).long()
    optimizer = METHODS[name](model.parameters())
    waits = trials = 0
    for step in range(STEPS):

        def evaluate(step: int = step) -> torch.Tensor:
            torch.manual_seed(step)
            return F.cross_entropy(model(inputs[step]), labels[step])

        def closure(evaluate: Callable[[], torch.Tensor] = evaluate) -> torch.Tensor:
            optimizer.zero_grad()
            loss = evaluate()
            loss.backward()
            return loss

        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.step(closure, **({} if name == "AdamW" else {"evaluate": evaluate}))
        torch.cuda.set_sync_debug_mode("default")
        if step > 0:  # the first step also makes its state
            waits += sum("synchroniz" in str(warning.message) for warning in caught)
            record = getattr(optimizer, "last_step", None)
            trials += 0 if record is None else record.evaluations
    return waits / (STEPS - 1), trials / (STEPS - 1)


def main() -> None:
    """Print a table of all methods."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synchronisations", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="a CPU has none to count")
    if parser.parse_args().device == "cpu" or not torch.cuda.is_available():
        print("Not counted: there is no CUDA device.")
        sys.exit(0)
    rows = [[name, *(f"{each:.2f}" for each in count(name))] for name in METHODS]
    print(markdown.table(["method", "synchronisations per step", "trials per step"], rows, numbers=True))


if __name__ == "__main__":
    main()
