"""Speed and accuracy of gradient-free methods, beside SaLSA and AdamW.

    python -m benchmarks.gradient_free --data-dir /path/to/glue

Everything is measured on the packaged MiniLM and the real SST-2, for the head alone and for all parameters. Each
measurement trains through `SequenceClassifier` in a new process and gives a row of a table. `--parts` selects among
these parts; `benchmarks.memory` measures memory:

- `accuracy`: forwards and steps per second, and the accuracy on the validation set after equal seconds of training.
- `overhead`: the time of a GLD step divided by that of its forward passes.
- `cache`: steps per second of the head, with features on disk and with the encoder run in every step.
- `candidates`: steps per second of GLD, with all candidates evaluated at once and with one at a time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.optim import AdamW
from torch.utils.data import DataLoader

from benchmarks import markdown
from benchmarks.own_process import measured_in_new_process
from callbacks import TrainingSeconds
from datamodules import GLUEDataModule
from lightning_modules import SequenceClassifier
from lightning_modules.closures import StepClosures
from optimizers import GLD, LineSearchMeZO, MeZO, ParamGroups, SaLSA

PACKAGED = "offline:all-MiniLM-L6-v2"
PARTS = ("accuracy", "overhead", "cache", "candidates")
SETTINGS = ("head", "all")
# First steps, which are not timed: first calls allocate and find the frozen part of the model.
WARM_UP = 2


class Method(NamedTuple):
    """Functions that make a method's optimizer, for the head and for all parameters."""

    head: Callable[..., Any]
    all: Callable[..., Any]


# With all parameters, a step of GLD moves one tensor, which takes 6 forward passes. Rates and radii are those of the
# configs where these have one, else the best of a few decades.
METHODS = {
    "GLD": Method(
        partial(GLD, radius=7.5e-3, num_radii=5, units="group"),
        partial(GLD, radius=7.5e-3, num_radii=5, units_per_round=1),
    ),
    "GLD, thesis": Method(
        partial(GLD, norm_weight=0.05, selection="random", subset_size=768),
        partial(GLD, norm_weight=0.05, selection="random", subset_size=768, units_per_round=1),
    ),
    "MeZO": Method(partial(MeZO, lr=1e-3), partial(MeZO, lr=1e-6)),
    "LineSearchMeZO": Method(LineSearchMeZO, LineSearchMeZO),
    "SaLSA": Method(SaLSA, SaLSA),
    "AdamW": Method(partial(AdamW, lr=3e-3), partial(AdamW, lr=5e-5)),
}
# The second is that of configs/optimizers/gld.yaml.
CANDIDATES: dict[str, dict[str, Any]] = {
    "5 of each tensor": {},
    "64, 20 rounds": {"num_radii": 64, "shrink": 0.95, "units": "group", "rounds": 20},
}


class Meter(Callback):
    """Counts steps, their forward passes and their seconds, leaving out the first few."""

    def __init__(self) -> None:
        self.steps, self.forwards, self.seconds = 0, 0, 0.0
        self._seen, self._started = 0, 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        seconds = time.perf_counter() - self._started
        self._seen += 1
        if self._seen > WARM_UP:
            self.steps += 1
            self.forwards += forwards_of(trainer.optimizers[0])
            self.seconds += seconds


class PassMeter(Meter):
    """Sums, beside what `Meter` does, the seconds in the closures' `evaluate` and `evaluate_many`."""

    def __init__(self) -> None:
        super().__init__()
        self.pass_seconds = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        closures_of: Callable[..., StepClosures] = pl_module.step_closures  # type: ignore[assignment]

        def timed_closures(*arguments: Any) -> StepClosures:
            step = closures_of(*arguments)
            for name in ("evaluate", "evaluate_many"):
                setattr(step, name, partial(self._timed, getattr(step, name)))
            return step

        pl_module.step_closures = timed_closures  # type: ignore[assignment]

    def _timed(self, function: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments)
        if self._seen >= WARM_UP:
            self.pass_seconds += time.perf_counter() - started
        return result


def forwards_of(optimizer: Any) -> int:
    """Return the forward passes of the last step: one of the closure and one per trial or candidate."""
    record = getattr(optimizer, "last_step", None)
    evaluations = 0 if record is None else record.evaluations
    return evaluations + bool(getattr(optimizer, "needs_gradient", True))


def data_of(options: argparse.Namespace) -> GLUEDataModule:
    """Return SST-2 from its official files."""
    return GLUEDataModule(
        "sst2",
        data_dir=str(options.data_dir),
        tokenizer=options.model,
        train_batch_size=options.batch_size,
        eval_batch_size=options.batch_size,
    )


def module_of(options: argparse.Namespace, setting: str, optimizer: Callable[..., Any], cached: bool) -> Any:
    """Return the classifier, of which the head or all parameters train."""
    seed_everything(0, verbose=False)
    return SequenceClassifier(
        options.model,
        optimizer=optimizer,
        trainable=setting,  # type: ignore[arg-type]
        cache_features=cached and (options.feature_cache_dir or True),
        dropout=0.0,
        # One group, hence one unit; groups by weight decay would be two.
        param_groups=ParamGroups(units="model"),
    )


def trainer_of(*callbacks: Callback, **settings: Any) -> Trainer:
    """Return a Trainer on one CPU process, without logs and checkpoints."""
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **settings,
    )


def few_batches(options: argparse.Namespace, count: int) -> DataLoader:
    """Return a loader of a few batches, the same for all methods."""
    data = data_of(options)
    data.prepare_data()
    data.setup("fit")
    torch.manual_seed(0)
    loader: Any = data.train_dataloader()
    batches: Any = list(itertools.islice(loader, count))
    return DataLoader(batches, batch_size=None)


# Measurements, each executed in a new process: functions of the options, a setting and a method.


def accuracy(options: argparse.Namespace, setting: str, method: str) -> dict[str, float]:
    """Measure speed, and accuracy after the given seconds of training; the head trains on cached features."""
    module = module_of(options, setting, getattr(METHODS[method], setting), cached=setting == "head")
    data, meter = data_of(options), Meter()
    clock = TrainingSeconds(max_seconds=options.seconds)
    trainer_of(meter, clock, max_epochs=-1, min_steps=WARM_UP + 1, limit_val_batches=0).fit(module, data)
    found = trainer_of().validate(module, data, verbose=False)[0]
    return speed(meter) | {"steps": meter.steps, "accuracy": found["val/accuracy"], "loss": found["val/loss"]}


def overhead(options: argparse.Namespace, setting: str, method: str) -> dict[str, float]:
    """Measure the seconds of a step and of its forward passes."""
    cached = setting == "head, cached"
    place = "head" if setting.startswith("head") else "all"
    module = module_of(options, place, getattr(METHODS[method], place), cached)
    batches = few_batches(options, options.steps + WARM_UP)
    if cached:  # an epoch that fills the files
        trainer_of(max_epochs=1, limit_val_batches=0).fit(module, batches)
    meter = PassMeter()
    trainer_of(meter, max_epochs=1, limit_val_batches=0).fit(module, batches)
    return {"step": meter.seconds / meter.steps, "passes": meter.pass_seconds / meter.steps}


def cache(options: argparse.Namespace, setting: str, method: str) -> dict[str, float]:
    """Measure the speed of the head, with or without features on disk."""
    module = module_of(options, "head", METHODS[method].head, cached=setting == "cached")
    batches, meter = few_batches(options, options.steps + WARM_UP), Meter()
    if setting == "cached":  # an epoch that fills the files
        trainer_of(max_epochs=1, limit_val_batches=0).fit(module, batches)
    trainer_of(meter, max_epochs=1, limit_val_batches=0).fit(module, batches)
    return speed(meter)


def candidates(options: argparse.Namespace, setting: str, method: str) -> dict[str, float]:
    """Measure the speed of GLD on cached features, with all candidates at once or one at a time."""
    trainable, _, what = setting.partition(", ")
    settings: dict[str, Any] = {"radius": 0.05, "candidates": method} | CANDIDATES[what]
    optimizer = partial(GLD, **settings)
    module = module_of(options, trainable, optimizer, cached=True)
    batches, meter = few_batches(options, options.steps + WARM_UP), Meter()
    trainer_of(max_epochs=1, limit_val_batches=0).fit(module, batches)
    trainer_of(meter, max_epochs=1, limit_val_batches=0).fit(module, batches)
    return speed(meter)


def speed(meter: Meter) -> dict[str, float]:
    """Return steps and forward passes per second."""
    if meter.steps == 0:
        raise SystemExit(f"no step beyond the first {WARM_UP}, which are not timed: give more --steps")
    return {"steps/s": meter.steps / meter.seconds, "forwards/s": meter.forwards / meter.seconds}


MEASUREMENTS = {f.__name__: f for f in (accuracy, overhead, cache, candidates)}


class Bench:
    """Executes measurements in new processes and makes their tables."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def measure(self, what: str, setting: str, method: str) -> dict[str, float]:
        print(f"{what}: {setting}, {method}", file=sys.stderr, flush=True)
        try:
            return measured_in_new_process("gradient_free", ["--measure", what, setting, method])
        except RuntimeError as error:
            raise SystemExit(str(error)) from None

    def accuracy(self) -> Iterator[list[str]]:
        yield ["trains", "method", "forwards per second", "steps per second", "steps", "val loss", "val accuracy"]
        for setting in self.options.settings:
            for method in self.options.methods:
                found = self.measure("accuracy", setting, method)
                rates = [f"{found[key]:.2f}" for key in ("forwards/s", "steps/s")]
                scores = [f"{found[key]:.4f}" for key in ("loss", "accuracy")]
                yield [setting, method, *rates, f"{found['steps']:.0f}", *scores]

    def overhead(self) -> Iterator[list[str]]:
        yield ["trains", "method", "ms per step", "ms in forwards", "ratio"]
        settings = [name for name in ("head, cached", *SETTINGS) if name.split(",")[0] in self.options.settings]
        for setting, method in itertools.product(settings, ("GLD", "GLD, thesis")):
            found = self.measure("overhead", setting, method)
            ratio = found["step"] / found["passes"]
            yield [setting, method, f"{found['step'] * 1e3:.1f}", f"{found['passes'] * 1e3:.1f}", f"{ratio:.3f}"]

    def cache(self) -> Iterator[list[str]]:
        yield ["method", "steps per second, cached", "steps per second, recomputed", "ratio"]
        for method in ("GLD", "MeZO"):
            cached, plain = (self.measure("cache", kind, method)["steps/s"] for kind in ("cached", "recomputed"))
            yield [method, f"{cached:.2f}", f"{plain:.3f}", f"{cached / plain:.1f}"]

    def candidates(self) -> Iterator[list[str]]:
        yield ["trains", "candidates", "steps per second, at once", "steps per second, one at a time", "ratio"]
        for trainable, what in itertools.product(("new", "head"), CANDIDATES):
            rates = [
                self.measure("candidates", f"{trainable}, {what}", method)["steps/s"]
                for method in ("at_once", "one_at_a_time")
            ]
            yield [trainable, what, *(f"{rate:.2f}" for rate in rates), f"{rates[0] / rates[1]:.2f}"]


def main() -> None:
    """Measure and print the tables."""
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        warnings.simplefilter("ignore")
        what, setting, method = options.measure
        print(json.dumps(MEASUREMENTS[what](options, setting, method)))
        return
    unknown = sorted(set(options.methods) - set(METHODS))
    if unknown:
        parser().error(f"--methods: {', '.join(unknown)} unknown; there are {', '.join(METHODS)}")
    print(
        f"{options.model}, SST-2, batches of {options.batch_size}, no dropout; CPU, {options.threads} thread(s); "
        f"torch {torch.__version__}; {options.seconds:g} s of training for each accuracy",
        flush=True,
    )
    bench = Bench(options)
    for part in options.parts:
        rows = getattr(bench, part)()
        print(f"\n{part}\n\n{markdown.head(next(rows), numbers=True)}", flush=True)
        for row in rows:
            print(markdown.row(row), flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.gradient_free", description=__doc__.split("\n\n")[0])
    arguments.add_argument("--data-dir", type=Path, required=True, help="folder with GLUE's official files (SST-2/)")
    arguments.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (default: all)")
    arguments.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS, help="trained parameters")
    arguments.add_argument("--methods", nargs="+", metavar="NAME", default=list(METHODS), help="methods to measure")
    arguments.add_argument("--seconds", type=float, default=60.0, help="seconds of training per accuracy (default: 60)")
    arguments.add_argument("--steps", type=int, default=4, help="steps in the other parts (default: 4)")
    arguments.add_argument("--batch-size", type=int, default=64, help="sentences per step (default: 64)")
    arguments.add_argument("--feature-cache-dir", help="folder for cached features (default: the library's)")
    arguments.add_argument("--model", default=PACKAGED, help=f"a model (default: {PACKAGED})")
    arguments.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    arguments.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    return arguments


if __name__ == "__main__":
    main()
