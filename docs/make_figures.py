"""Draw the figures of the pages on methods: ``python docs/make_figures.py [FOLDER]``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import matplotlib as mpl  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.study.figures import COLOURS, STYLE, WIDTH, save  # noqa: E402
from callbacks import DifferentialLearningRates  # noqa: E402
from datamodules import GLUEDataModule  # noqa: E402
from lightning_modules import SequenceClassifier  # noqa: E402
from lightning_modules.schedules import ConstantWithWarmup, CosineWithWarmup, LinearWithWarmup, Triangular  # noqa: E402
from optimizers import GLD, ArmijoSearch, LineSearchMeZO, MeZO  # noqa: E402

WARM_UP_STEPS = 5


def main(folder: Path) -> None:
    """Draw all figures into a folder."""
    save(armijo_condition(), folder, "armijo_condition")
    save(random_steps(), folder, "random_steps")
    save(rates(), folder, "rates")


def armijo_condition() -> Figure:
    """Plot the loss of a batch along Adam's direction, and the step sizes that the Armijo condition accepts."""
    torch.manual_seed(0)
    data = GLUEDataModule("sst2", source="synthetic", max_train_samples=256, max_length=32)
    data.prepare_data()
    data.setup("fit")
    module = SequenceClassifier("offline:all-MiniLM-L6-v2", num_labels=data.num_labels).eval()
    batches = iter(data.train_dataloader())
    parameters = [p for p in module.parameters() if p.requires_grad]
    adam = torch.optim.Adam(parameters, lr=5e-5)
    for _ in range(WARM_UP_STEPS):
        adam.zero_grad()
        module.compute_loss(next(batches)).backward()
        adam.step()

    batch = next(batches)
    adam.zero_grad()
    loss = module.compute_loss(batch)
    loss.backward()
    trained = [p for p in parameters if p.grad is not None]
    gradients = [p.grad.clone() for p in trained if p.grad is not None]
    directions = [g / (adam.state[p]["exp_avg_sq"].sqrt() + 1e-8) for p, g in zip(trained, gradients, strict=True)]
    start = [p.detach().clone() for p in trained]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))

    @torch.no_grad()
    def loss_at(step_size: float) -> float:
        for p, origin, direction in zip(trained, start, directions, strict=True):
            p.copy_(origin - step_size * direction)
        return float(module.compute_loss(batch))

    etas = np.geomspace(1e-8, 1e-3, 50)
    losses = [loss_at(eta) for eta in etas]
    first = float(loss.detach())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.72, 3.0), layout="constrained")
        axes = figure.subplots()
        axes.plot(etas, losses, color="black", label="loss of the batch")
        for c, colour in ((0.1, COLOURS[0]), (0.5, COLOURS[1])):
            axes.plot(etas, first - c * etas * slope, color=colour, linestyle="--", label=f"what c = {c} asks for")
            found = ArmijoSearch(c, shrink=0.8, max_trials=40, min_step_size=0.0)(loss_at, first, slope, 1e-3)
            axes.plot([found.step_size], [found.loss], "o", color=colour, label=f"found after {found.trials} trials")
        axes.set_xscale("log")
        axes.set_ylim(min(losses) - 0.05, first + 0.25)
        axes.set_xlabel("step size along Adam's direction")
        axes.set_ylabel("loss of the batch")
        axes.legend(loc="upper left")
        return figure


def random_steps() -> Figure:
    """Plot the paths of the gradient-free methods on a quadratic of two parameters, with equally many losses."""
    budget = 240

    def valley(x: Tensor) -> Tensor:
        return 0.5 * (x[0] ** 2 + 8.0 * x[1] ** 2)

    methods: dict[str, Any] = {
        "GLD": lambda x: GLD([x], radius=0.5, num_radii=5),
        "MeZO": lambda x: MeZO([x], lr=0.01),
        # A fixed objective, without the noise that the defaults allow for.
        "LineSearchMeZO": lambda x: LineSearchMeZO([x], c=0.5, growth=2.0),
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        grid = figure.subplots(1, len(methods), sharex=True, sharey=True)
        across, up = np.meshgrid(np.linspace(-2.4, 0.6, 80), np.linspace(-0.6, 1.6, 80))
        for axes, (name, make) in zip(grid, methods.items(), strict=True):
            x = torch.tensor([-2.0, 1.0], requires_grad=False)
            optimizer, count = make(x), [0]

            def evaluate(x: Tensor = x, count: list[int] = count) -> Tensor:
                count[0] += 1
                return valley(x)

            path = [x.tolist()]
            while count[0] < budget:
                optimizer.step(evaluate=evaluate)
                path.append(x.tolist())
            axes.contour(across, up, 0.5 * (across**2 + 8 * up**2), levels=8, colors="#BBBBBB", linewidths=0.7)
            axes.plot(*zip(*path, strict=True), color=COLOURS[0], marker="o", markersize=2, linewidth=1)
            axes.set_title(f"{name}: {len(path) - 1} steps")
            axes.set_xlabel("first parameter")
            axes.grid(visible=False)
        grid[0].set_ylabel("second parameter")
        return figure


def rates() -> Figure:
    """Plot learning-rate schedules over a run, and differential learning rates over depth."""
    steps = 200
    schedules: dict[str, Any] = {
        "ConstantWithWarmup": lambda o: ConstantWithWarmup(o, total_steps=steps),
        "LinearWithWarmup": lambda o: LinearWithWarmup(o, total_steps=steps),
        "CosineWithWarmup": lambda o: CosineWithWarmup(o, total_steps=steps),
        "Triangular, 2 cycles": lambda o: Triangular(o, total_steps=steps, num_cycles=2),
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
        over_time, over_depth = figure.subplots(1, 2)
        for i, (name, make) in enumerate(schedules.items()):
            optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
            schedule, values = make(optimizer), []
            for _ in range(steps):
                values.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                schedule.step()
            over_time.plot(
                np.arange(steps) / steps, values, color=COLOURS[i], linestyle=("-", "--", "-.", ":")[i], label=name
            )
        over_time.set_xlabel("share of the run")
        over_time.set_ylabel("learning rate / the optimizer's")
        over_time.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
        depths = np.arange(8)
        rules: tuple[Any, ...] = ("power", "linear")
        for i, rule in enumerate(rules):
            callback = DifferentialLearningRates(rule=rule)
            factors = [callback.factor_at(int(depth)) for depth in depths]
            over_depth.plot(depths, factors, color=COLOURS[i], marker="os"[i], markersize=4, label=f"rule: {rule}")
        over_depth.set_yscale("log")
        over_depth.set_xlabel("parts above (0: the head)")
        over_depth.set_ylabel("learning rate / the head's")
        over_depth.legend()
        return figure


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "figures")
