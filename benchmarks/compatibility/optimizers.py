"""Every optimizer of torch and of the packages for optimizers: trained, resumed and scheduled on a small model.

    python -m benchmarks.compatibility.optimizers > docs/compatibility_optimizers.md

Takes some minutes. Training counts as working where it ends in the very bits that a plain loop of PyTorch ends in,
written as the optimizer's own documentation says.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import pickle
import random
import re
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import ClosureModule, ModelError, Schedule
from lightning_modules.models.cpu_products import put_torchs_own_back
from lightning_modules.steps.fused import fused_keywords
from optimizers import ParamGroups

PACKAGES = {
    "torch.optim": "torch",
    "pytorch_optimizer": "pytorch_optimizer",
    "schedulefree": "schedulefree",
    "prodigyopt": "prodigyopt",
    "dadaptation": "dadaptation",
    "momo": "momo-opt",
    "torchzero": "torchzero",
}
# Arguments without a default, or whose default does not serve.
ARGUMENTS: dict[str, dict[str, Any]] = {
    **{name: {"base_optimizer": torch.optim.SGD, "lr": 0.1} for name in ("SAM", "FriendlySAM", "LookSAM", "WSAM")},
    "AdaFactor": {"relative_step": False},  # otherwise its rate has no effect, which is refused
    "BSAM": {"num_data": 64},
    "LBFGS": {"lr": 0.1},  # at 1 it diverges on some processors, and does not on others
    "Ranger21": {"num_iterations": 40},
}
# These wrap an optimizer.
WRAPPERS = ("Lookahead", "Magma", "OrthoGrad", "PCGrad", "SafeFP16Optimizer", "ScheduleFreeWrapper", "TRAC")
AS_PLAIN = "as a plain loop"
DIVERGES = "diverges in a plain loop"
NO_EFFECT = "without effect in eight steps"
LARGEST_WEIGHT = 1e6
EPOCHS = 2
BATCH = 16


class SmallClassifier(ClosureModule):
    """Three linear layers, perhaps with dropout, on eight numbers."""

    def __init__(self, dropout: float = 0.1, **training: Any) -> None:
        super().__init__(**training)
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(8, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 16), nn.Linear(16, 2)
        )

    def compute_loss(self, batch: Any) -> Tensor:
        inputs, labels = batch
        return nn.functional.cross_entropy(self.layers(inputs), labels)


@dataclass(frozen=True)
class Candidate:
    """One optimizer of a package.

    Args:
        package: The module it is imported from.
        name: Its name there; of torchzero, that of the module it is made of.
        make: Makes it from parameter groups, or from a model.
    """

    package: str
    name: str
    make: Callable[..., Optimizer]


@dataclass(frozen=True)
class Outcome:
    """What became of an optimizer.

    Args:
        trains: :data:`AS_PLAIN`, :data:`DIVERGES`, or why not.
        resumes: ``exactly``, or why not.
        scheduled: ``yes``, :data:`NO_EFFECT`, or why not.
    """

    trains: str
    resumes: str = ""
    scheduled: str = ""


def candidates(package: str) -> Iterator[Candidate]:
    """Yield the optimizers of a package.

    Args:
        package: A key of :data:`PACKAGES`.
    """
    module: Any = import_module(package)
    if package == "torchzero":
        yield from torchzero_candidates(module)
        return
    for name, found in sorted(vars(module).items()):
        if not (inspect.isclass(found) and issubclass(found, Optimizer)) or found is Optimizer:
            continue
        if package != "torch.optim" and found.__module__.startswith("torch."):
            continue
        if name in WRAPPERS:
            yield Candidate(package, name, partial(_wrapped, found))
            continue
        arguments = ARGUMENTS.get(name, {})
        rate = inspect.signature(found).parameters.get("lr")
        if not arguments and rate is not None and rate.default is inspect.Parameter.empty:
            arguments = {"lr": 1e-2}
        yield Candidate(package, name, partial(found, **arguments))


def torchzero_candidates(torchzero: Any) -> Iterator[Candidate]:
    """Yield an optimizer for every module of torchzero that needs no argument, with a rate after it if it has none."""
    for name, found in sorted(vars(torchzero.m).items()):
        if inspect.isclass(found) and issubclass(found, torchzero.core.Module):
            try:
                defaults = found().defaults  # type: ignore[attr-defined]
            except Exception:
                continue
            made: Any = partial(found, seed=0) if "seed" in defaults else found  # type: ignore[call-arg]
            rates = [] if "lr" in defaults else [partial(torchzero.m.LR, 1e-2)]
            yield Candidate("torchzero", name, partial(_composed, torchzero.Optimizer, [made, *rates]))


def _wrapped(wrapper: Any, params: Any) -> Optimizer:
    return wrapper(torch.optim.SGD(params, lr=0.1))


def _composed(optimizer: Any, modules: list[Callable[[], Any]], params: Any) -> Optimizer:
    return optimizer(params, *(module() for module in modules))


def loader() -> DataLoader:
    """Return the data: 64 rows of eight numbers, labelled by the sign of the first."""
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, (inputs[:, 0] > 0).long()), batch_size=BATCH)


def plain_loop(candidate: Candidate) -> nn.Module:
    """Train the small model as the documentation of the optimizer says, without Lightning.

    The gradient comes first for those that perturb the weights (SAM), with its graph for those that differentiate it
    (AdaHessian); modes are switched for those that have two sets of weights (schedule-free).
    """
    module = SmallClassifier(_dropout(candidate))
    groups: Any = ParamGroups()(module)
    if candidate.name == "LBFGS" and candidate.package != "torchzero":
        groups = list(module.parameters())  # it takes one group alone
    takes_model = next(iter(inspect.signature(candidate.make).parameters)) == "model"
    _seed()
    if takes_model and "params" in inspect.signature(candidate.make).parameters:
        optimizer = candidate.make(module, groups)
    else:
        # As runs do: the fused form of an optimizer rounds otherwise.
        fused = fused_keywords(candidate.make, module, torch.device("cpu"), False)
        optimizer = candidate.make(module if takes_model else groups, **fused)
    needs_graph = "hessian" in inspect.signature(optimizer.step).parameters
    _set_mode(optimizer, "train")
    for _ in range(EPOCHS):
        for batch in loader():
            closure: Any = _plain_closure(module, optimizer, batch, needs_graph)
            if hasattr(optimizer, "first_step"):
                closure()
            optimizer.step(closure)
    _set_mode(optimizer, "eval")
    return module


def _dropout(candidate: Candidate) -> float:
    # Some of torchzero's draw noise in front of the first loss, which here is computed first.
    return 0.0 if candidate.package == "torchzero" else 0.1


def _set_mode(optimizer: Any, mode: str) -> None:
    if callable(getattr(optimizer, mode, None)):
        getattr(optimizer, mode)()


def _plain_closure(
    module: SmallClassifier, optimizer: Optimizer, batch: Any, needs_graph: bool
) -> Callable[..., Tensor]:
    """Return a closure whose dropout masks are those of its first call."""
    before: list[Tensor] = []

    def closure(backward: bool = True) -> Tensor:
        present = torch.get_rng_state()
        if before:
            torch.set_rng_state(before[0])
        with torch.set_grad_enabled(backward or torch.is_grad_enabled()):
            loss = module.compute_loss(batch)
        if before:
            torch.set_rng_state(present)
        before.append(present)
        if backward:
            optimizer.zero_grad()
            loss.backward(create_graph=needs_graph)
        return loss

    return closure


def _seed() -> None:
    # pytorch_optimizer's Kron draws from numpy's generator, torchzero from Python's.
    torch.manual_seed(1)
    numpy.random.seed(1)
    random.seed(1)


def _generators() -> tuple[Any, ...]:
    return torch.get_rng_state(), numpy.random.get_state(), random.getstate()


def _set_generators(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    numpy.random.set_state(states[1])
    random.setstate(states[2])


def train(candidate: Candidate, epochs: int = EPOCHS, **options: Any) -> tuple[nn.Module, Trainer]:
    """Train the small model with an optimizer under Lightning.

    Args:
        candidate: The optimizer.
        epochs: Length of the run.
        options: Arguments of :class:`SmallClassifier`, and ``ckpt_path`` and ``weights_only`` of ``Trainer.fit``.
    """
    resumed = {name: options.pop(name) for name in ("ckpt_path", "weights_only") if name in options}
    generators = _generators()
    module = SmallClassifier(_dropout(candidate), optimizer=candidate.make, **options)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if resumed:
        _set_generators(generators)  # those of the interrupted run, which the making of the module has drawn from
    else:
        _seed()
    trainer.fit(module, loader(), **resumed)
    return module, trainer


def outcome(candidate: Candidate) -> Outcome:
    """Try an optimizer.

    Errors other than one line about the optimizer come through: they are faults.
    """
    # Some optimizers print. A plain loop takes torch's own library for products, and runs do where one has set that.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.ExitStack() as after:
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision("highest")
        after.callback(put_torchs_own_back)
        try:
            trained, _ = train(candidate)
        except ModelError as error:
            line = " ".join(str(error).split())
            # What Python adds to this depends on where the recursion ended.
            line = re.sub(r"(?<=recursion depth exceeded) while calling a Python object", "", line)
            return Outcome(f"refused: {line}")
        trains = _compared(trained, plain_loop(candidate))
        if candidate.package == "torchzero":
            return Outcome(trains)
        return Outcome(trains, _resumed(candidate, trained), _scheduled(candidate, trained))


def _resumed(candidate: Candidate, trained: nn.Module) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "half.ckpt")
        _, trainer = train(candidate, EPOCHS // 2)
        trainer.save_checkpoint(path)
        states = _generators()
        for weights_only in (True, False):
            _set_generators(states)
            try:
                resumed, _ = train(candidate, ckpt_path=path, weights_only=weights_only)
            except pickle.UnpicklingError:
                continue
            except ModelError as error:
                return f"refused: {error}"
            how = "exactly" if _equal(resumed, trained) else "not exactly: it keeps a part of its state elsewhere"
            return how if weights_only else f"{how}, with weights_only=False"
    raise AssertionError("a checkpoint that cannot be read at all")


def _scheduled(candidate: Candidate, constant: nn.Module) -> str:
    try:
        scheduled, _ = train(candidate, lr_scheduler=Schedule(partial(LinearLR, start_factor=0.5, total_iters=8)))
    except ModelError as error:
        return f"refused: {error}"
    return NO_EFFECT if _equal(scheduled, constant) else "yes"


def _compared(trained: nn.Module, plain: nn.Module) -> str:
    # Where weights explode, the last bit of a sum, which differs from run to run, decides on the rest.
    if not all(bool((parameter.abs() < LARGEST_WEIGHT).all()) for parameter in plain.parameters()):
        return DIVERGES
    return AS_PLAIN if _equal(trained, plain) else "otherwise than a plain loop"


def _equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)


def row(candidate: Candidate, found: Outcome) -> str:
    """Return a line of the table."""
    cells = (candidate.name, found.trains, found.resumes, found.scheduled)
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |".replace("|  |", "| |").replace("|  |", "| |")


HEAD = """# Optimizers of other packages

Every optimizer of torch and of six packages, tried by `python -m benchmarks.compatibility.optimizers`, which writes
this page. *Trains*: `as a plain loop` if the parameters after two epochs are bit-equal to those of a plain PyTorch
loop written as the optimizer's documentation says, fused where torch offers that; otherwise the error message of the
run. *Resumes*: `exactly` if a run resumed from its checkpoint is bit-equal to an uninterrupted one; `with
weights_only=False` if the optimizer's state holds other objects than tensors and numbers. *Schedule*: whether a
learning-rate schedule can be used with it, and has an effect in eight steps. AdaFactor of `pytorch_optimizer` was
given `relative_step=False`, without which its rate has none.

If an optimizer needs extra entries in its groups (`use_muon`), give [a function that takes groups, adds the entries
and returns the optimizer](adding_an_optimizer.md#an-optimizer-of-torch-or-of-another-package).
"""


def main() -> None:
    """Print the page."""
    print(HEAD)
    for package, distribution in PACKAGES.items():
        print(f"## {package} {metadata.version(distribution)}\n")
        if package == "torchzero":
            print(torchzero_section())
            continue
        print("| optimizer | trains | resumes | schedule |\n| --- | --- | --- | --- |")
        for candidate in candidates(package):
            print(row(candidate, outcome(candidate)), flush=True)
        print()


def torchzero_section() -> str:
    """Return what is said of torchzero: its modules make up an optimizer, and most of them are alike here."""
    found = {candidate.name: outcome(candidate).trains for candidate in candidates("torchzero")}
    alike = [name for name, trains in found.items() if trains == AS_PLAIN]
    others = [f"| {name} | {trains.replace('|', '/')} |" for name, trains in found.items() if trains != AS_PLAIN]
    summary = (
        f"An optimizer of one module, followed by `LR(0.01)` where the module has no rate. {len(alike)} of the "
        f"{len(found)} modules that need no argument train {AS_PLAIN}, including the line searches, which call the "
        "closure with `backward=False`. The others end with the same error in a plain loop. A run cannot be resumed: "
        "when torchzero loads a state it replaces the model's parameters by the checkpoint's, which is refused."
    )
    table = ["| module | trains |", "| --- | --- |", *others]
    names = f"{AS_PLAIN.capitalize()}: {', '.join(alike)}."
    return "\n".join([textwrap.fill(summary, 120), "", *table, "", textwrap.fill(names, 120)])


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m benchmarks.compatibility.optimizers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    main()
