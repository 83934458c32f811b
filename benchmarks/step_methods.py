"""Methods whose steps are measured, ours, torch's and those of published packages, and how a step of each is made."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from lightning_modules.batches.batch_rows import Batch
from lightning_modules.closures import StepClosures
from optimizers import SGDSLS, AdamSLS, ParabolicAdam, ParamGroups, SaLSA


def now(device: torch.device) -> float:
    """Return a time in seconds: of the processor where one thread computes, which no other program changes much."""
    one_thread = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time() if one_thread else time.perf_counter()


class Stopwatch:
    """Sum of the time in forward and backward passes, of that in trials, and number of forward passes."""

    def __init__(self, device: torch.device, exact: bool) -> None:
        self.device, self.exact = device, exact
        self.seconds, self.trial_seconds, self.forwards = 0.0, 0.0, 0

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def measured(self, function: Callable[..., Any], forwards: int = 0) -> Callable[..., Any]:
        """Wrap a function so that its time is added; on a GPU this waits for the device before and after."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if self.exact:
                self.wait()
            started = now(self.device)
            result = function(*args, **kwargs)
            if self.exact:
                self.wait()
            took = now(self.device) - started
            self.seconds += took
            self.trial_seconds += 0.0 if torch.is_grad_enabled() else took
            self.forwards += forwards
            return result

        return run


# A function that makes one step of a model's optimizer on a batch and times its passes.
Step = Callable[[nn.Module, Any, Batch, Stopwatch], None]


def our_step(model: nn.Module, optimizer: Any, batch: Batch, watch: Stopwatch) -> None:
    """Make a step with `closure` and `evaluate`, as the Lightning modules do."""
    step = closures(model, optimizer, batch, watch)
    optimizer.step(step.closure, evaluate=step.evaluate)


def torch_step(model: nn.Module, optimizer: Any, batch: Batch, watch: Stopwatch) -> None:
    """Make a step of a torch optimizer."""
    optimizer.step(closures(model, optimizer, batch, watch).closure)


def package_salsa_step(model: nn.Module, optimizer: Any, batch: Batch, watch: Stopwatch) -> None:
    """Make a step of SaLSa-Optimizer's SaLSA, whose closure takes an argument for the backward pass."""
    forward, backward = watch.measured(lambda: model(**batch).loss, forwards=1), watch.measured(Tensor.backward)

    def closure(backwards: bool = False) -> Tensor:
        loss = forward()
        if backwards:
            backward(loss)
        return loss

    optimizer.zero_grad()
    optimizer.step(closure)


def package_sls_step(model: nn.Module, optimizer: Any, batch: Batch, watch: Stopwatch) -> None:
    """Make a step of SaLSa-Optimizer's AdamSLS, which has a separate closure with the backward pass."""
    forward, backward = watch.measured(lambda: model(**batch).loss, forwards=1), watch.measured(Tensor.backward)

    def closure_with_backward() -> Tensor:
        loss = forward()
        backward(loss)
        return loss

    optimizer.zero_grad()
    optimizer.step(forward, closure_with_backward=closure_with_backward)


def torchzero_step(model: nn.Module, optimizer: Any, batch: Batch, watch: Stopwatch) -> None:
    """Make a step of torchzero, whose closure takes an argument for the backward pass."""
    forward, backward = watch.measured(lambda: model(**batch).loss, forwards=1), watch.measured(Tensor.backward)

    def closure(backward_too: bool = True) -> Tensor:
        loss = forward()
        if backward_too:
            optimizer.zero_grad()
            backward(loss)
        return loss

    optimizer.step(closure)


def closures(model: nn.Module, optimizer: Any, batch: Batch, watch: Stopwatch) -> StepClosures:
    """Return the closures of a step, timed."""
    return StepClosures(
        watch.measured(lambda batch: model(**batch).loss, forwards=1),
        [batch],
        zero_grad=optimizer.zero_grad,
        backward=watch.measured(Tensor.backward),
        device=watch.device,
    )


@dataclass(frozen=True)
class Method:
    """Functions that make a method's optimizer and its steps."""

    make: Callable[[nn.Module], Any]
    step: Step


def methods(steps: int) -> dict[str, Method]:
    """Return all methods by name, for runs of so many steps; those of packages not installed are left out."""
    ours = {
        "AdamW": Method(lambda model: AdamW(model.parameters(), lr=5e-5, foreach=True), torch_step),
        "fused AdamW": Method(lambda model: AdamW(model.parameters(), lr=5e-5, fused=True), torch_step),
        "SGDSLS": Method(lambda model: SGDSLS(model.parameters(), steps_per_epoch=16), our_step),
        "AdamSLS": Method(lambda model: AdamSLS(model.parameters(), steps_per_epoch=16), our_step),
        "AdamSLS per layer": Method(
            lambda model: AdamSLS(ParamGroups(units="layer")(model), steps_per_epoch=16, update_rule="cycle"), our_step
        ),
        "SaLSA": Method(lambda model: SaLSA(model.parameters()), our_step),
        "ParabolicAdam": Method(lambda model: ParabolicAdam(model.parameters(), total_steps=steps), our_step),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from salsa import SaLSA as package_salsa
            from salsa import adam_sls as package_sls
        except ImportError:
            print("SaLSa-Optimizer is not installed: left out", file=sys.stderr)
        else:
            ours |= {
                "SaLSa-Optimizer SaLSA": Method(
                    lambda model: package_salsa.SaLSA(list(model.parameters())), package_salsa_step
                ),
                "SaLSa-Optimizer AdamSLS": Method(
                    lambda model: package_sls.AdamSLS([list(model.parameters())], n_batches_per_epoch=16),
                    package_sls_step,
                ),
            }
        try:
            import torchzero
        except ImportError:
            print("torchzero is not installed: left out", file=sys.stderr)
        else:
            m = torchzero.m
            ours["torchzero Adam + backtracking"] = Method(
                lambda model: torchzero.Optimizer(
                    model.parameters(), m.Adam(), m.Backtracking(init=0.1, beta=0.8, c=0.1, maxiter=30)
                ),
                torchzero_step,
            )
    return ours


def pairs() -> dict[str, tuple[Method, Method]]:
    """Return our and the published method with equal constants, so that both try the same step sizes in every step."""
    try:
        from salsa import SaLSA as package_salsa
        from salsa import adam_sls as package_sls
    except ImportError:
        return {}
    plain: dict[str, Any] = {"bracket": None, "relative_tolerance": 0.0, "max_trials": 100}
    growth = 2.0 ** (1 / 16)
    return {
        "SaLSA": (
            Method(
                lambda model: SaLSA(
                    model.parameters(), initial_step_size=1.1e-3, condition="momentum", cadence="always", **plain
                ),
                our_step,
            ),
            Method(
                lambda model: package_salsa.SaLSA(
                    list(model.parameters()), init_step_size=1e-3, speed_up=False, use_mv=True
                ),
                package_salsa_step,
            ),
        ),
        "AdamSLS": (
            Method(
                lambda model: AdamSLS(
                    model.parameters(), initial_step_size=1e-3 * growth, c=0.2, steps_per_epoch=16, **plain
                ),
                our_step,
            ),
            Method(
                lambda model: package_sls.AdamSLS(
                    [list(model.parameters())], init_step_size=1e-3, n_batches_per_epoch=16, smooth=False
                ),
                package_sls_step,
            ),
        ),
    }
