"""Against the published package, SaLSa-Optimizer: the same decisions, but for its known faults.

The faults that these tests name: SaLSA corrects the bias of the moments with the step's number plus one; both of its
optimizers let the step size grow before the first search; it reseeds the global generator with the clock's second.
"""

from __future__ import annotations

import pytest
import torch

from optimizers import AdamSLS, SaLSA
from tests.optimizers.problem import TorchProblem
from tests.optimizers.reference import SoftmaxRegression, Trace
from tests.optimizers.same import assert_same_trace

published = pytest.importorskip("salsa.SaLSA")
published_sls = pytest.importorskip("salsa.adam_sls")

STEPS = 25
EXACT = {"bracket": None, "relative_tolerance": 0.0, "max_trials": 500}


def run_published(problem, optimizer, steps, step_size):
    """A loop around an optimizer of the package, which calls `closure(backwards=...)` or runs backward itself."""
    trace = Trace()
    for step in range(steps):
        before = optimizer.state["n_forwards"]

        def closure(backwards=False, step=step):
            loss = problem.loss(step)
            if backwards:
                loss.backward()
            return loss

        optimizer.zero_grad()
        trace.loss.append(optimizer.step(closure).item())
        trace.trials.append(optimizer.state["n_forwards"] - before - 1)
        trace.step_size.append([float(step_size(optimizer))] * len(problem.units))
        trace.point.append([[p.detach().clone().numpy() for p in unit] for unit in problem.units])
    return trace


def salsa_of_the_package(problem):
    optimizer = published.SaLSA(problem.parameters(), speed_up=False, use_mv=True)
    optimizer.avg_decrease = optimizer.avg_decrease.double()
    optimizer.avg_gradient_norm = optimizer.avg_gradient_norm.double()
    return optimizer


def our_salsa(problem):
    return SaLSA(problem.groups(), initial_step_size=1.1, condition="momentum", cadence="always", **EXACT)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_salsa_decides_the_same_once_its_bias_correction_is_right(seed, monkeypatch):
    wrong = published.scale_vector
    monkeypatch.setattr(published, "scale_vector", lambda vector, alpha, step: wrong(vector, alpha, step - 1))
    theirs, ours = TorchProblem(SoftmaxRegression(seed)), TorchProblem(SoftmaxRegression(seed))
    expected = run_published(theirs, salsa_of_the_package(theirs), STEPS, lambda o: o.step_size)
    assert_same_trace(ours.run(our_salsa(ours), STEPS), expected)
    assert max(expected.trials) > 5


def test_its_bias_correction_is_off_by_one():
    theirs, ours = TorchProblem(), TorchProblem()
    package, optimizer = salsa_of_the_package(theirs), our_salsa(ours)
    run_published(theirs, package, 1, lambda o: o.step_size)
    ours.run(optimizer, 1)
    # At the first step Adam's direction is the sign of the gradient, so that the slope is the sum of its magnitudes.
    slope = sum(p.grad.abs().sum().item() for p in ours.parameters())
    assert optimizer.last_step.slope == pytest.approx(slope, rel=1e-6)
    off = ((1 - 0.999**2) / (1 - 0.999)) ** 0.5 * (1 - 0.9) / (1 - 0.9**2)
    assert package.state["gradient_norm"].item() == pytest.approx(slope * off, rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_adam_sls_decides_the_same(seed):
    theirs, ours = TorchProblem(SoftmaxRegression(seed)), TorchProblem(SoftmaxRegression(seed))
    package = published_sls.AdamSLS([theirs.parameters()], n_batches_per_epoch=6, c=0.3, smooth=False)
    expected = run_published(theirs, package, STEPS, lambda o: o.state["step_sizes"][0])
    growth = 2.0 ** (1 / 6)
    optimizer = AdamSLS(ours.groups(), initial_step_size=0.1 * growth, c=0.3, steps_per_epoch=6, **EXACT)
    assert_same_trace(ours.run(optimizer, STEPS), expected, tolerance=1e-5)
    assert max(expected.trials) > 3


def test_it_draws_the_same_random_numbers_in_every_step_of_a_second(monkeypatch):
    monkeypatch.setattr(published.time, "time", lambda: 1234.5)

    def draws(make, call):
        problem = TorchProblem()
        optimizer = make(problem)
        drawn = []
        for step in range(3):

            def closure(backwards=True, step=step):
                optimizer.zero_grad()
                drawn.append((step, torch.rand(()).item()))
                loss = problem.loss(step)
                if backwards:
                    loss.backward()
                return loss

            call(optimizer, closure)
        return [{number for step, number in drawn if step == wanted} for wanted in range(3)]

    theirs = draws(salsa_of_the_package, lambda optimizer, closure: optimizer.step(closure))
    assert theirs[0] == theirs[1] == theirs[2]
    ours = draws(our_salsa, lambda optimizer, closure: optimizer.step(closure))
    assert [len(numbers) for numbers in ours] == [1, 1, 1]
    assert len(set.union(*ours)) == 3
