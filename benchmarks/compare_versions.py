"""This tree's optimizers beside another tree's: the same losses, bit by bit, and no slower.

    git worktree add ../before v0.1.0
    python -m benchmarks.compare_versions ../before

The package `optimizers` is imported from both trees into one process. Every optimizer trains its own copy of a small
network with dropout; the losses of all steps are compared, and the two versions take turns at every step while their
time is measured. `benchmarks.step_overhead` compares fits of both trees.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import inspect
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from benchmarks import markdown

ROOT = Path(__file__).parent.parent
WIDTH, ROWS, CLASSES = 64, 32, 4

# By name: how to make the optimizer from a version of the package and a network.
Make = Callable[[ModuleType, nn.Module], torch.optim.Optimizer]


def by_layer(model: nn.Module) -> list[dict[str, Any]]:
    """Return parameter groups in which every layer is a unit."""
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]  # type: ignore[attr-defined]
    return [{"params": list(layer.parameters()), "name": f"layer.{i}"} for i, layer in enumerate(layers)]


def methods(steps: int) -> dict[str, Make]:
    """Return every optimizer, with its defaults and in the settings that take other ways through the code."""

    def whole(name: str, **options: Any) -> Make:
        return lambda package, model: getattr(package, name)(model.parameters(), **options)

    def layered(name: str, **options: Any) -> Make:
        return lambda package, model: getattr(package, name)(by_layer(model), **options)

    return {
        "AdamSLS": whole("AdamSLS"),
        "AdamSLS, heavy ball": whole("AdamSLS", momentum="heavy_ball"),
        "AdamSLS, along the momentum": whole("AdamSLS", condition="momentum", weight_decay=0.1),
        "AdamSLS per layer, in turn": layered("AdamSLS", update_rule="cycle", merge_threshold=1e-6),
        "AdamSLS per layer, all": layered("AdamSLS", update_rule="all"),
        "AdamSLS per layer, impact": layered("AdamSLS", update_rule="impact"),
        "SGDSLS": whole("SGDSLS", momentum=0.9),
        "SaLSA": whole("SaLSA"),
        "SaLSA, the paper's cadence": whole("SaLSA", cadence="ratio"),
        "SaLSA per layer": layered("SaLSA", update_rule="cycle"),
        "SaLSA along Lion's direction": lambda package, model: package.SaLSA(
            model.parameters(), direction=package.lion, cadence="always"
        ),
        "ParabolicAdam": whole("ParabolicAdam", total_steps=steps),
        "ParabolicAdam, length unknown": whole("ParabolicAdam"),
        "GLD": whole("GLD", radius=0.1),
        "GLD, lookahead": whole("GLD", radius=0.1, lookahead_width=2, lookahead_levels=2),
        "MeZO": whole("MeZO", lr=1e-2),
        "LineSearchMeZO": whole("LineSearchMeZO"),
        "AdamWL2SP": whole("AdamWL2SP", anchor_decay=0.1),
    }


def optimizers_of(tree: Path) -> ModuleType:
    """Return a tree's own copy of the package `optimizers`, whatever was imported under its name before."""

    def is_of_package(module: str) -> bool:
        return module.split(".")[0] == "optimizers"

    before = {module: sys.modules.pop(module) for module in list(sys.modules) if is_of_package(module)}
    sys.path.insert(0, str(tree))
    try:
        package = importlib.import_module("optimizers")
    finally:
        sys.path.remove(str(tree))
        for module in [module for module in sys.modules if is_of_package(module)]:
            del sys.modules[module]
        sys.modules.update(before)
    assert Path(str(package.__file__)).is_relative_to(tree.resolve()), f"optimizers came from {package.__file__}"
    return package


class Run:
    """One version of an optimizer in training, step by step."""

    def __init__(self, make: Make, package: ModuleType, model: nn.Module) -> None:
        self.model = copy.deepcopy(model)
        self.optimizer = make(package, self.model)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, number: int) -> None:
        """Make one step on the batch of this number."""
        generator = torch.Generator().manual_seed(number)
        inputs = torch.randn(ROWS, WIDTH, generator=generator)
        labels = inputs[:, :CLASSES].argmax(dim=1)

        def loss() -> torch.Tensor:
            torch.manual_seed(number)  # the same dropout masks in every trial of a step
            return nn.functional.cross_entropy(self.model(inputs), labels)

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        offered: dict[str, Any] = {"closure": closure, "evaluate": torch.no_grad()(loss)}
        taken = inspect.signature(type(self.optimizer).step).parameters
        arguments = {name: value for name, value in offered.items() if name in taken}
        started = time.perf_counter()
        result = self.optimizer.step(**arguments)
        self.seconds.append(time.perf_counter() - started)
        self.losses.append(float(torch.as_tensor(result).detach()))


def difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the largest relative difference of two series; 0 where they are equal to the last bit."""
    return max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(one, other, strict=True))


def verdict(apart: float) -> str:
    """Return what the table says of a difference."""
    return "equal" if apart == 0 else f"{apart:.1e} apart"


def compare_steps(other: Path, steps: int, names: Sequence[str]) -> float:
    """Train with both versions in turn, print a row for every optimizer, and return the largest difference."""
    before, after = optimizers_of(other), optimizers_of(ROOT)
    torch.manual_seed(0)
    hidden = [layer for _ in range(3) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(0.1))]
    model = nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES))
    print(markdown.head(["optimizer", "losses", "step before, ms", "step after, ms", "ratio"]))
    worst = 0.0
    for name, make in methods(steps).items():
        if names and name not in names:
            continue
        runs = Run(make, before, model), Run(make, after, model)
        for number in range(steps):
            # Whoever goes first finds the caches as the other one left them.
            for run in runs if number % 2 else runs[::-1]:
                run.step(number)
        apart = difference(runs[0].losses, runs[1].losses)
        worst = max(worst, apart)
        old, new = (1000 * statistics.median(run.seconds[5:] or run.seconds) for run in runs)
        # The median of the ratios pair by pair: a machine that slows down slows both.
        ratio = statistics.median(b / a for a, b in zip(runs[0].seconds, runs[1].seconds, strict=True))
        print(markdown.row([name, verdict(apart), *(f"{each:.3f}" for each in (old, new, ratio))]), flush=True)
    return worst


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, and return 1 if any loss differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path, help="a checkout of the version to compare with")
    parser.add_argument("--steps", type=int, default=300, help="steps of each optimizer (default: %(default)s)")
    parser.add_argument("--only", nargs="*", default=[], help="names of the rows to make (default: all)")
    options = parser.parse_args(arguments)
    if not (options.tree / "optimizers" / "__init__.py").is_file():
        parser.error(f"{options.tree} is no checkout: it has no optimizers/__init__.py")
    return int(compare_steps(options.tree.resolve(), options.steps, options.only) > 0)


if __name__ == "__main__":
    sys.exit(main())
