"""ParabolicAdam against NumPy code written from its equations."""

from __future__ import annotations

import math
import warnings
import weakref

import numpy as np
import pytest
import torch

from optimizers import ParabolicAdam, PeakRate, traits
from tests.optimizers.problem import TorchProblem
from tests.optimizers.reference import Adam, Trace, along, inner
from tests.optimizers.same import assert_same_trace


def reference(problem, steps, peak_fraction=0.12, total_steps=None, weight_decay=0.01, probe=0.1):
    """The method, written from its equations."""
    point, adam, trace = problem.start, Adam(problem.start), Trace()
    distances, weights, expected, measured, last = [], [], 0.0, 0.0, 0
    share = max(peak_fraction, min(0.5, 13 / total_steps)) if total_steps else peak_fraction
    minimiser, least = 0.0, 0.01 * whole_change(point) / peak_fraction
    for step in range(steps):
        schedule = 1.0
        if total_steps is not None:
            schedule = min(1, 10 * (step + 1) / total_steps) * (1 - step / total_steps)
        loss, gradient = problem.loss(point, step), problem.gradient(point, step)
        adam.update(gradient)
        direction = adam.direction()
        slope = inner(gradient, direction)
        due = step + 1 - last >= min(40, max(1, last // 2))
        measuring = total_steps is None or step + 1 <= max(20, total_steps / 2)
        due = due and measuring
        if step and (due or (measuring and (step < 40 or (step + 1) % 4 == 0))):
            weight = 0.1 / (1 - 0.9 ** (step + 1))
            present = weight * inner(gradient, adam._over_root(gradient))
            scale = abs(slope - present) + present
            expected += (step + 1) * (slope - present) / (1 - weight) / scale
            measured += (step + 1) * slope / scale
        trials = 0
        if due:
            if distances:
                probe = 0.2 * mean(distances, weights)
            trials = 1
            if slope > 0:
                while True:
                    bend = problem.loss(along(point, direction, probe), step) - loss + slope * probe
                    found = min(10 * probe, slope * probe**2 / (2 * bend)) if bend > 1e-6 * abs(loss) else 10 * probe
                    if found >= 5 / 8 * probe:
                        break
                    probe = max(found / 5, probe / 256)
                    trials += 1
                distances.append(np.sqrt(found * 2 * loss / slope) if loss > 0 else found)
                weights.append((step + 1) * (step + 1 - last))
            agreement = min(max(0.02, (1.5 + expected / (step + 1)) / (10 + measured / (step + 1))), 1)
            found = agreement * mean(distances, weights)
            minimiser = max(minimiser, found) if total_steps else found
            last = step + 1
        step_size = schedule * share * max(least, minimiser)
        decayed = [[x - step_size * weight_decay * x for x in unit] for unit in point]
        point = along(decayed, direction, step_size)
        trace.loss.append(loss)
        trace.trials.append(trials)
        trace.step_size.append([step_size] * len(point))
        trace.point.append(point)
    return trace


def whole_change(point):
    """The median over matrices of the rate at which a step of rank one has the norm of a random matrix like them."""
    matrices = [array for unit in point for array in unit if array.ndim == 2]
    sizes = [np.sqrt((each**2).mean()) * sum(np.sqrt(each.shape)) for each in matrices]
    return np.median([size / np.sqrt(each.size) for size, each in zip(sizes, matrices, strict=True)])


def mean(found, weights):
    """The weighted geometric mean."""
    return float(np.exp(np.average(np.log(found), weights=weights)))


@pytest.mark.parametrize("total_steps", [None, 8, 25, 60, 400])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("peak_fraction", [0.5, 0.1])
def test_follows_the_equations(total_steps, weight_decay, peak_fraction):
    problem = TorchProblem()
    options = {"peak_fraction": peak_fraction, "total_steps": total_steps, "weight_decay": weight_decay}
    optimizer = ParabolicAdam(problem.groups(), **options)
    steps = min(60, total_steps or 60)
    expected = reference(problem.reference, steps, **options)
    assert_same_trace(problem.run(optimizer, steps), expected)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_the_loss_does_not_matter(scale):
    plain, scaled = TorchProblem(), TorchProblem()
    scaled.loss = lambda step: scale * TorchProblem.loss(scaled, step)
    expected = plain.run(ParabolicAdam(plain.groups(), total_steps=40, eps=0.0), 40)
    found = scaled.run(ParabolicAdam(scaled.groups(), total_steps=40, eps=0.0), 40)
    np.testing.assert_allclose(found.step_size, expected.step_size, rtol=1e-5)


def test_where_the_loss_is_not_positive_the_parabola_alone_counts():
    problem = TorchProblem()
    problem.loss = lambda step: TorchProblem.loss(problem, step) - 5
    optimizer = ParabolicAdam(problem.groups(), total_steps=40)
    problem.reference.loss = lambda point, step: type(problem.reference).loss(problem.reference, point, step) - 5
    assert_same_trace(problem.run(optimizer, 40), reference(problem.reference, 40, total_steps=40))


def test_a_group_may_start_from_a_rate_of_its_own():
    problem = TorchProblem()
    optimizer = ParabolicAdam([group | {"lr": 10.0} for group in problem.groups()])
    assert_same_trace(problem.run(optimizer, 10), reference(problem.reference, 10, probe=10.0))


def test_comes_down_from_a_step_size_that_is_far_too_large():
    problem = TorchProblem()
    optimizer = ParabolicAdam(problem.groups(), initial_step_size=10.0)
    expected = reference(problem.reference, 30, probe=10.0)
    assert_same_trace(problem.run(optimizer, 30), expected)
    assert 1 < expected.trials[0] < 5


def test_searches_thin_out():
    problem = TorchProblem()
    optimizer = ParabolicAdam(problem.groups())
    searched = [step + 1 for step, trials in enumerate(problem.run(optimizer, 1000).trials) if trials]
    assert searched[:12] == [1, 2, 3, 4, 6, 9, 13, 19, 28, 42, 63, 94]
    assert searched[12:] == list(range(134, 1000, 40))


@pytest.mark.parametrize(("total_steps", "searches"), [(12, 6), (80, 9), (1000, 22)])
def test_the_peak_is_measured_in_the_first_half_of_the_run(total_steps, searches):
    problem = TorchProblem()
    optimizer = ParabolicAdam(problem.groups(), total_steps=total_steps)
    trace = problem.run(optimizer, total_steps)
    searched = [step + 1 for step, trials in enumerate(trace.trials) if trials]
    assert len(searched) == searches
    assert searched[-1] <= max(20, total_steps / 2)
    falling = range(max(searched[-1], total_steps // 10), total_steps)
    peaks = [trace.step_size[step][0] / (1 - step / total_steps) for step in falling]
    assert peaks == pytest.approx(peaks[:1] * len(peaks))


@pytest.mark.parametrize(("steps", "searches"), [(80, 9), (1000, 22)])
def test_the_peak_is_measured_in_the_first_half_of_a_run_of_known_time(steps, searches):
    problem = TorchProblem()
    optimizer = ParabolicAdam(problem.groups())
    searched, step_sizes = 0, []
    for step in range(steps):
        optimizer.progress = step / steps
        trace = problem.run(optimizer, 1, first=step)
        searched += bool(trace.trials[0])
        step_sizes.append(trace.step_size[0][0])
    assert searched == searches
    peak = step_sizes[steps // 2] / 0.5
    measured = steps // 2
    assert step_sizes[measured:] == pytest.approx([peak * (1 - step / steps) for step in range(measured, steps)])
    assert step_sizes[0] == 0


@pytest.mark.parametrize(("steps", "share"), [(2, 0.5), (20, 0.5), (40, 13 / 40), (200, 0.12)])
def test_a_short_run_takes_a_larger_share(steps, share):
    assert PeakRate().share(steps) == pytest.approx(share)
    known, timed = TorchProblem(), TorchProblem()
    optimizer, by_progress = ParabolicAdam(known.groups(), total_steps=steps), ParabolicAdam(timed.groups())
    for step in range(steps):
        by_progress.progress = step / steps
        for problem, its in ((known, optimizer), (timed, by_progress)):
            problem.run(its, 1, first=step)
            group = its.param_groups[0]
            if step:
                assert group["lr"] == pytest.approx(its.schedule(step + 1) * share * group["minimiser"])


@pytest.mark.parametrize("known", [True, False])
def test_only_a_schedule_lets_the_step_size_fall(known):
    problem = TorchProblem()
    optimizer = ParabolicAdam(problem.groups(), total_steps=200 if known else None)
    peaks, minimisers = [], []
    for step in range(80):
        problem.run(optimizer, 1, first=step)
        group = optimizer.param_groups[0]
        peaks.append(group["lr"] / optimizer.schedule(step + 1) / 0.12)
        minimisers.append(group["agreement"] * math.exp(group["log_distance"]))
    assert min(np.diff(minimisers)) < 0
    largest = np.maximum.accumulate(minimisers) if known else minimisers
    assert peaks == pytest.approx(np.maximum(largest, optimizer.param_groups[0]["least_peak"] / 0.12))


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_a_sharp_direction_does_not_keep_the_rate_below_a_share_of_the_weights(share: float) -> None:
    # One steep entry beside a matrix that still has all to learn: the loss rises beyond a step of 1e-5.
    matrix, steep = torch.nn.Parameter(torch.full((40, 90), 0.2)), torch.nn.Parameter(torch.ones(1))
    optimizer = ParabolicAdam([matrix, steep], total_steps=200, least_change=share)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = matrix.mean().square() + 1e5 * (steep - 1 + 1e-6).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    group = optimizer.param_groups[0]
    assert group["minimiser"] < 1e-4
    assert group["lr"] == pytest.approx(0.05 * share * 0.2 * (40**-0.5 + 90**-0.5))


def test_the_least_peak_is_that_of_all_that_trains() -> None:
    first, second = (torch.nn.Parameter(torch.full((4, 9), value)) for value in (0.1, 0.9))
    optimizer = ParabolicAdam([first, second], total_steps=100, weight_decay=0.0, least_change=0.01)
    second.requires_grad_(False)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = 1 + first.sum() + second.sum()
        loss.backward()
        return loss

    found = []
    for is_trained in (False, True):
        second.requires_grad_(is_trained)
        trained = [float(each.detach().mean()) for each in (first, second)[: 1 + is_trained]]
        optimizer.step(closure)
        found.append(optimizer.param_groups[0]["least_peak"])
        assert found[-1] == pytest.approx(0.01 * sum(trained) / len(trained) * (1 / 2 + 1 / 3), rel=1e-5)
    assert found[1] > 2 * found[0]


def test_a_quotient_of_two_negative_sums_is_no_agreement():
    problem = TorchProblem()
    optimizer = ParabolicAdam(problem.parameters())
    problem.run(optimizer, 1)
    optimizer.param_groups[0]["slope_sums"] = torch.tensor([-60.0, -90.0])
    problem.run(optimizer, 2, first=1)
    assert optimizer.param_groups[0]["agreement"] == PeakRate().prior_agreement


def test_steps_between_searches_are_those_of_adamw():
    problem = TorchProblem()
    optimizer = ParabolicAdam(problem.parameters(), total_steps=100, weight_decay=0.1)
    problem.run(optimizer, 15)
    twin = TorchProblem()
    with torch.no_grad():
        for a, b in zip(twin.parameters(), problem.parameters(), strict=True):
            a.copy_(b)
    adamw = torch.optim.AdamW(twin.parameters(), weight_decay=0.1)
    for a, b in zip(twin.parameters(), problem.parameters(), strict=True):
        adamw.state[a] = {name: value.clone() for name, value in optimizer.state[b].items()}
    found = optimizer.param_groups[0]["lr"] / optimizer.schedule(15)
    trace = problem.run(optimizer, 2, first=15)
    assert trace.trials == [0, 0]
    for step in (15, 16):
        adamw.param_groups[0]["lr"] = found * (1 - step / 100)
        adamw.step(twin.callables(adamw, step)[0])
    for a, b in zip(problem.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_an_uphill_direction_is_followed_with_the_step_size_in_force():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    optimizer = ParabolicAdam([weight], weight_decay=0.0)

    def step(sign):
        def closure():
            optimizer.zero_grad()
            loss = sign * weight.sum() + 5 + 0.01 * (weight**2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    for _ in range(3):
        step(1.0)
    before, distance = weight.detach().clone(), optimizer.param_groups[0]["log_distance"]
    step(-0.2)
    record = optimizer.last_step
    assert record.slope < 0
    assert record.accepted
    assert optimizer.param_groups[0]["log_distance"] == distance
    assert (weight < before).all()


def test_gradients_of_zero_tell_nothing():
    problem = TorchProblem()
    optimizer = ParabolicAdam(problem.groups())
    sums = []
    for step in range(12):
        closure, _ = problem.callables(optimizer, step)

        def flat(closure=closure, frozen=3 <= step < 9):
            loss = closure()
            if frozen:
                for weight in problem.parameters():
                    weight.grad.zero_()
            return loss

        optimizer.step(flat)
        sums.append(optimizer.param_groups[0]["slope_sums"].clone())
    assert torch.equal(sums[2], sums[8])
    assert torch.isfinite(sums[11]).all()
    assert not torch.equal(sums[8], sums[11])
    assert all(torch.isfinite(weight).all() for weight in problem.parameters())


@pytest.mark.parametrize("keeps", [True, False])
def test_gradients_that_nobody_reads_are_free_during_a_search_and_nothing_else_changes(keeps):
    problem, other = TorchProblem(), TorchProblem()
    optimizer, usual = (ParabolicAdam(each.groups(), total_steps=30) for each in (problem, other))
    optimizer.keeps_gradients = keeps
    held = []

    def is_held():
        return [gradient() is not None for gradient in held]

    def step_of(closure, evaluate):
        def followed():
            loss = closure()
            held[:] = [weakref.ref(weight.grad) for weight in problem.parameters()]
            return loss

        def watched():
            assert set(is_held()) == {keeps}
            return evaluate()

        return optimizer.step(followed, evaluate=watched)

    for step in range(30):
        loss = step_of(*problem.callables(optimizer, step))
        assert set(is_held()) == {keeps or not optimizer.last_step.evaluations}
        assert other.run(usual, 1, first=step).loss == [loss.item()]
    assert 0 < usual.param_groups[0]["searches"] < 30
    for one, its_twin in zip(problem.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, its_twin)
        assert all(map(torch.equal, optimizer.state[one].values(), usual.state[its_twin].values()))
    assert problem.evaluations == other.evaluations


def frozen(problem, optimizer, steps, first=0):
    """Run with all but the first group frozen."""
    rest = [weight for group in optimizer.param_groups[1:] for weight in group["params"]]
    for weight in rest:
        weight.requires_grad_(False)
        weight.grad = None
    trace = problem.run(optimizer, steps, first=first)
    for weight in rest:
        weight.requires_grad_(True)
    return trace


def test_measures_anew_when_more_of_the_model_trains():
    problem = TorchProblem()
    optimizer = ParabolicAdam(problem.groups(), weight_decay=0.0)
    frozen(problem, optimizer, 25)
    twin = TorchProblem()
    probe = 0.2 * math.exp(optimizer.param_groups[0]["log_distance"])
    fresh = ParabolicAdam(twin.groups(), weight_decay=0.0, initial_step_size=probe)
    for group, copy in zip(optimizer.param_groups, fresh.param_groups, strict=True):
        for weight, its_copy in zip(group["params"], copy["params"], strict=True):
            its_copy.data.copy_(weight.data)
            its_copy.grad = None
            if weight in optimizer.state:
                fresh.state[its_copy] = {name: value.clone() for name, value in optimizer.state[weight].items()}
    assert_same_trace(problem.run(optimizer, 30, first=25), twin.run(fresh, 30, first=25))


def test_searches_again_after_half_of_the_run_when_more_of_the_model_trains():
    problem = TorchProblem()
    optimizer = ParabolicAdam(problem.groups(), total_steps=200)
    searched = [sum(map(bool, frozen(problem, optimizer, *some).trials)) for some in ((100, 0), (20, 100))]
    released = problem.run(optimizer, 60, first=120).trials
    assert searched == [12, 0]
    assert [step for step, trials in enumerate(released) if trials] == [0, 1, 2, 3, 5, 8, 12, 18]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_tensors_of_different_age_count_each_by_its_own(steps):
    problem = TorchProblem()
    optimizer = ParabolicAdam(problem.groups(), weight_decay=0.0)
    frozen(problem, optimizer, 5)
    sums = np.zeros(2)
    for number, step in enumerate(range(5, 5 + steps), start=1):
        problem.run(optimizer, 1, first=step)
        expected = earlier = present = 0.0
        for weight in problem.parameters():
            state = {name: value.numpy() for name, value in optimizer.state[weight].items()}
            gradient, age = weight.grad.numpy(), state["step"]
            root = np.sqrt(state["exp_avg_sq"] / (1 - 0.999**age)) + 1e-8
            share = 0.1 / (1 - 0.9**age)
            its_present = share * np.sum(gradient**2 / root)
            its_earlier = np.sum(gradient * state["exp_avg"] / root) / (1 - 0.9**age) - its_present
            if age > 1:
                expected, earlier = expected + its_earlier / (1 - share), earlier + its_earlier
                present += its_present
        sums += number * np.array([expected, earlier + present]) / (abs(earlier) + present)
    np.testing.assert_allclose(optimizer.param_groups[0]["slope_sums"].numpy(), sums, rtol=1e-6)


def test_after_the_announced_end_the_last_step_size_stays():
    problem = TorchProblem()
    optimizer = ParabolicAdam(problem.groups(), total_steps=10)
    trace = problem.run(optimizer, 12)
    assert optimizer.schedule(12) == optimizer.schedule(10) == pytest.approx(0.1)
    assert all(math.isfinite(loss) for loss in trace.loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_steps": 0}, "total_steps: 0 is not allowed; an integer, at least 1, or None"),
        ({"betas": (0.0, 0.999)}, r"betas: \(0.0, 0.999\) is not allowed; from 0 to below 1, the first above 0"),
        ({"betas": (0.9, 1.0)}, r"betas: \(0.9, 1.0\) is not allowed"),
        ({"peak_fraction": 2.0}, "peak_fraction: 2.0 is not allowed; above 0 and below 2"),
        ({"eps": -1.0}, "eps: -1.0 is not allowed; at least 0"),
        ({"weight_decay": -1.0}, "weight_decay: -1.0 is not allowed; at least 0"),
        ({"initial_step_size": 20.0}, "initial_step_size: 20.0 is not allowed; from 1e-10 to 10"),
        ({"max_trials": 0}, "max_trials: 0 is not allowed; an integer, at least 1"),
        ({"relative_tolerance": -1.0}, "relative_tolerance: -1.0 is not allowed; at least 0"),
        ({"least_change": 1.0}, "least_change: 1.0 is not allowed; from 0 to below 1"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        ParabolicAdam(TorchProblem().groups(), **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("option", "value"), [("lr", 1e-3), ("least_change", 0.0), ("peak_fraction", 0.5)])
def test_an_option_of_the_whole_model_is_not_taken_from_one_group(option, value):
    first, *others = TorchProblem().groups()
    with pytest.raises(ValueError, match=rf"{option}: .*{value}.* is not allowed; the same in all groups.*lr_factor"):
        ParabolicAdam([first, *({**group, option: value} for group in others)])


def test_an_argument_that_never_was_is_pythons_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'lr'"):
        ParabolicAdam(TorchProblem().groups(), lr=1.0)


def test_a_state_of_another_optimizer_is_refused():
    state = torch.optim.AdamW(TorchProblem().groups()).state_dict()
    with pytest.raises(ValueError, match="another optimizer or an older ParabolicAdam: its groups lack steps"):
        ParabolicAdam(TorchProblem().groups()).load_state_dict(state)


def test_a_state_of_an_older_version_is_refused():
    state = ParabolicAdam(TorchProblem().groups()).state_dict()
    del state["param_groups"][0]["least_change"]
    with pytest.raises(ValueError, match="an older ParabolicAdam: its groups lack least_change"):
        ParabolicAdam(TorchProblem().groups()).load_state_dict(state)


def test_groups_share_one_rate_whatever_their_unit_and_scale_it_by_their_factor():
    one, other = TorchProblem(), TorchProblem()
    divided = [{**group, "unit": f"unit{i}"} for i, group in enumerate(other.groups())]
    trace = one.run(ParabolicAdam(one.groups(), total_steps=30), 30)
    assert_same_trace(other.run(ParabolicAdam(divided, total_steps=30), 30), trace)

    groups = one.groups()
    groups[0]["lr_factor"] = 0.0
    optimizer = ParabolicAdam(groups, total_steps=30)
    before = [weight.detach().clone() for weight in one.parameters()]
    one.run(optimizer, 5)
    assert [torch.equal(a, b) for a, b in zip(one.parameters(), before, strict=True)] == [True, True, False, False]


def test_it_says_what_it_can_do_and_what_its_searches_found():
    assert traits(ParabolicAdam) == (True, True, True, True, True)
    problem = TorchProblem()
    optimizer = ParabolicAdam(problem.groups(), total_steps=40)
    records = []
    for step in range(40):
        problem.run(optimizer, 1, first=step)
        records.append(optimizer.last_step)
    (report,) = optimizer.unit_reports().values()
    assert report.step_size == records[-1].step_size
    assert report.searches == sum(record.evaluations > 0 for record in records)
    assert report.trials == sum(record.evaluations for record in records)
    assert report.backtracks == report.trials - report.searches
    assert (report.failures, report.skipped) == (0, 0)
    assert report.slope == [record.slope for record in records if record.evaluations][-1]
    assert report.smoothed_slope > 0


@pytest.mark.parametrize("known", [{"total_steps": 3}, {"total_steps": 4}, {"total_steps": None}, {"progress": 0.5}])
def test_steps_beyond_the_length_of_the_run_are_warned_of_once(known):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = ParabolicAdam([parameter], total_steps=known.get("total_steps", 3))
    optimizer.progress = known.get("progress")

    def closure():
        optimizer.zero_grad()
        loss = (parameter - 2).square().sum()
        loss.backward()
        return loss

    told = []
    for step in range(1, 7):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.step(closure)
        told += [step for each in caught if "total_steps = " in str(each.message)]
    total = None if "progress" in known else known["total_steps"]
    assert told == ([] if total is None else [total + 1])
