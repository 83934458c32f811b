"""The line search methods in NumPy and float64, written from the papers' equations, and a problem to run them on.

Nothing here imports torch or the code under test. A point is a list of units, a unit a list of arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


class SoftmaxRegression:
    """Mean cross-entropy of a two-layer classifier, another mini-batch at every step; gradients by hand."""

    def __init__(self, seed=0, batches=6, rows=12, features=4, hidden=3, classes=3):
        rng = np.random.default_rng(seed)
        self.inputs = rng.normal(size=(batches, rows, features))
        self.labels = rng.integers(0, classes, size=(batches, rows))
        self.start = [
            [rng.normal(size=(features, hidden)), rng.normal(size=hidden)],
            [rng.normal(size=(hidden, classes))],
            [rng.normal(size=classes)],
        ]

    def _forward(self, point, step):
        (w1, b1), (w2,), (b2,) = point
        k = step % len(self.inputs)
        inputs, labels = self.inputs[k], self.labels[k]
        hidden = np.tanh(inputs @ w1 + b1)
        logits = hidden @ w2 + b2
        logits = logits - logits.max(axis=1, keepdims=True)
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return inputs, labels, hidden, log_probs

    def loss(self, point, step):
        _, labels, _, log_probs = self._forward(point, step)
        return -log_probs[np.arange(len(labels)), labels].mean()

    def gradient(self, point, step):
        inputs, labels, hidden, log_probs = self._forward(point, step)
        w2 = point[1][0]
        error = np.exp(log_probs)
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        back = (error @ w2.T) * (1 - hidden**2)
        return [[inputs.T @ back, back.sum(axis=0)], [hidden.T @ error], [error.sum(axis=0)]]


@dataclass
class Trace:
    """What a method did, step by step."""

    loss: list = field(default_factory=list)
    step_size: list = field(default_factory=list)  # one list per step, with the step size of every unit
    trials: list = field(default_factory=list)
    searched: list = field(default_factory=list)  # the unit that searched, None for all or none
    point: list = field(default_factory=list)


def combine(function, *points):
    """Apply a function array by array."""
    return [[function(*arrays) for arrays in zip(*units, strict=True)] for units in zip(*points, strict=True)]


def inner(a, b, units=None):
    chosen = range(len(a)) if units is None else units
    return sum(float((x * y).sum()) for i in chosen for x, y in zip(a[i], b[i], strict=True))


def along(point, direction, step_size, units=None):
    """The point moved by -step_size * direction, in some units or in all."""
    return [
        [x - step_size * d for x, d in zip(xs, ds, strict=True)] if units is None or i in units else xs
        for i, (xs, ds) in enumerate(zip(point, direction, strict=True))
    ]


class Adam:
    """Adam's moments; `direction()` and `without_momentum()` after each `update(gradient)`."""

    def __init__(self, start, beta1=0.9, beta2=0.999, eps=1e-8, amsgrad=False):
        self.beta1, self.beta2, self.eps, self.amsgrad = beta1, beta2, eps, amsgrad
        self.m = combine(np.zeros_like, start)
        self.v = combine(np.zeros_like, start)
        self.largest = combine(np.zeros_like, start)
        self.t = 0

    def update(self, gradient):
        self.t += 1
        self.gradient = gradient
        self.m = combine(lambda m, g: self.beta1 * m + (1 - self.beta1) * g, self.m, gradient)
        self.v = combine(lambda v, g: self.beta2 * v + (1 - self.beta2) * g**2, self.v, gradient)
        self.largest = combine(np.maximum, self.largest, self.v)

    def _over_root(self, numerator):
        second = self.largest if self.amsgrad else self.v
        return combine(lambda n, v: n / (np.sqrt(v / (1 - self.beta2**self.t)) + self.eps), numerator, second)

    def direction(self):
        return self._over_root(combine(lambda m: m / (1 - self.beta1**self.t), self.m))

    def without_momentum(self):
        return self._over_root(self.gradient)


class Lion:
    """The sign of an interpolation between gradient and momentum."""

    def __init__(self, start, beta1=0.9, beta2=0.99):
        self.beta1, self.beta2 = beta1, beta2
        self.m = combine(np.zeros_like, start)

    def update(self, gradient):
        self.sign = combine(lambda m, g: np.sign(self.beta1 * m + (1 - self.beta1) * g), self.m, gradient)
        self.m = combine(lambda m, g: self.beta2 * m + (1 - self.beta2) * g, self.m, gradient)

    def direction(self):
        return self.sign

    without_momentum = direction


class Gradient:
    """The direction of SGD."""

    def __init__(self, start):
        pass

    def update(self, gradient):
        self.gradient = gradient

    def direction(self):
        return self.gradient

    without_momentum = direction


def backtrack(loss_at, start_loss, slope, step_size, c, shrink, beta=0.0, h=0.0, s=0.0):
    """Armijo backtracking; with beta > 0 both sides are averages over searches. Returns step size, loss, trials."""
    for trial in range(1, 1000):
        loss = loss_at(step_size)
        if beta * h + (1 - beta) * (start_loss - loss) >= c * step_size * (beta * s + (1 - beta) * slope):
            return step_size, loss, trial
        step_size *= shrink
    raise AssertionError("the reference problem needs a step size out of reach")


def line_search_method(
    problem,
    steps,
    base,
    *,
    initial,
    c,
    shrink,
    growth_per_step,
    condition="gradient",
    weight_decay=0.0,
    heavy_ball=0.0,
    reset="grow",
):
    """SGDSLS and AdamSLS with the whole model as one unit."""
    point, trace, step_size = problem.start, Trace(), initial
    inertia = combine(np.zeros_like, point)
    for k in range(steps):
        loss = problem.loss(point, k)
        gradient = problem.gradient(point, k)
        base.update(gradient)
        bare = condition == "gradient" or heavy_ball > 0
        trial_direction = base.without_momentum() if bare else base.direction()
        slope = inner(gradient, trial_direction)
        trace.loss.append(loss)
        if slope <= 0:  # no step along a line that does not descend; the one trial that showed it is counted
            trace.step_size.append([step_size] * len(point))
            trace.trials.append(1)
            trace.point.append(point)
            inertia = combine(np.zeros_like, point)
            continue
        if trace.trials and reset == "grow":
            step_size *= growth_per_step
        if reset == "restart":
            step_size = initial
        step_size, _, trials = backtrack(
            lambda eta, d=trial_direction: problem.loss(along(point, d, eta), k),  # noqa: B023
            loss,
            slope,
            step_size,
            c,
            shrink,
        )
        move = trial_direction if heavy_ball > 0 else base.direction()
        inertia = combine(lambda b, d, eta=step_size: heavy_ball * b - eta * d, inertia, move)
        point = (
            combine(lambda x, b, eta=step_size: x + b - eta * weight_decay * x, point, inertia)
            if heavy_ball
            else (combine(lambda x, d, eta=step_size: x - eta * d - eta * weight_decay * x, point, move))
        )
        trace.step_size.append([step_size] * len(point))
        trace.trials.append(trials)
        trace.point.append(point)
    return trace


def salsa(
    problem,
    steps,
    base,
    *,
    initial=1.0,
    c=0.5,
    shrink=0.8,
    growth=1.1,
    beta=0.9,
    condition="gradient",
    weight_decay=0.0,
    cadence="drift",
):
    """SaLSA with the whole model as one unit. A step without a search has 0 trials."""
    point, trace = problem.start, Trace()
    h = s = fast = slow = 0.0
    step_size, searches, waited = initial, 0, 0
    logs = []  # the step size of every step up to the last search, as that search or the next one found it
    for k in range(steps):
        waited += 1
        loss = problem.loss(point, k)
        gradient = problem.gradient(point, k)
        base.update(gradient)
        trials = 0
        if searches >= 10 and cadence == "drift":
            ages = np.arange(len(logs))[::-1]
            (one, age_one), (other, age_other) = (
                (np.average(logs, weights=beta**ages), np.average(ages, weights=beta**ages)) for beta in (0.9, 0.99)
            )
            drift = (one - other) / (age_other - age_one)
            interval = min(10.0, -np.log(shrink) / abs(drift)) if drift else 10.0
        elif searches >= 10 and cadence == "ratio":
            one, other = fast / (1 - 0.9**searches), slow / (1 - 0.99**searches)
            rate = max(one, other) / min(one, other)
            interval = min(10.0, 1 / (rate - 1)) if rate > 1 else 10.0
        else:
            interval = 1
        if waited >= interval:
            trial_direction = base.without_momentum() if condition == "gradient" else base.direction()
            slope = inner(gradient, trial_direction)
            step_size, new, trials = backtrack(
                lambda eta, d=trial_direction: problem.loss(along(point, d, eta), k),  # noqa: B023
                loss,
                slope,
                step_size * (growth if searches else 1),
                c,
                shrink,
                beta,
                h,
                s,
            )
            h = beta * h + (1 - beta) * (loss - new)
            s = beta * s + (1 - beta) * slope
            fast = 0.9 * fast + 0.1 * step_size
            slow = 0.99 * slow + 0.01 * step_size
            logs += [np.log(step_size)] * waited
            searches += 1
            waited = 0
        point = combine(lambda x, d, eta=step_size: x - eta * d - eta * weight_decay * x, point, base.direction())
        trace.loss.append(loss)
        trace.step_size.append([step_size] * len(point))
        trace.trials.append(trials)
        trace.point.append(point)
    return trace


def per_unit(
    problem,
    steps,
    base,
    *,
    rule,
    joint_steps,
    initial=0.1,
    c=0.1,
    shrink=0.9,
    growth_per_step=1.0,
    beta=0.0,
    condition="gradient",
    merge_threshold=None,
):
    """A step size for every unit (the paper's PLASLS), with plain or smoothed condition."""
    point, trace = problem.start, Trace()
    past = beta or 0.9  # the weight of the past in the averages
    units = [
        {"members": [i], "eta": initial, "h": 0.0, "s": 0.0, "searches": 0, "waited": 0} for i in range(len(point))
    ]

    def try_along(chosen, sizes, first):
        """Search along the line that moves every chosen unit by its own size; returns factor, loss, trials, slopes."""

        def moved(factor):
            there = point
            for unit, size in zip(chosen, sizes, strict=True):
                there = along(there, trial_direction, factor * size, unit["members"])
            return problem.loss(there, k)

        slopes = [inner(gradient, trial_direction, unit["members"]) for unit in chosen]
        total = sum(size * slope for size, slope in zip(sizes, slopes, strict=True))
        h = sum(unit["h"] for unit in chosen) if beta else 0.0
        s = sum(size * unit["s"] for size, unit in zip(sizes, chosen, strict=True)) if beta else 0.0
        if beta * s + (1 - beta) * total <= 0:  # not a descent: one trial shows it, and the units stay where they are
            for unit in chosen:
                unit["waited"] = 0
            return None, loss, 1, slopes
        return *backtrack(moved, loss, total, first, c, shrink, beta, h, s), slopes

    def first_size(unit):
        return unit["eta"] * (growth_per_step ** unit["waited"] if unit["searches"] else 1)

    def remember(unit, eta, slope, decrease):
        unit["eta"] = eta
        unit["h"] = past * unit["h"] + (1 - past) * decrease
        unit["s"] = past * unit["s"] + (1 - past) * slope
        unit["searches"] += 1
        unit["waited"] = 0

    for k in range(steps):
        loss = problem.loss(point, k)
        gradient = problem.gradient(point, k)
        base.update(gradient)
        trial_direction = base.without_momentum() if condition == "gradient" else base.direction()
        for unit in units:
            unit["waited"] += 1
        if len(units) > 1 and all(unit["searches"] < joint_steps for unit in units):
            ones = [1.0] * len(units)
            eta, new, trials, slopes = try_along(units, ones, first_size(units[0]))
            chosen, searched = units, None
            if eta is not None:
                point = along(point, base.direction(), eta)
                for unit, slope in zip(units, slopes, strict=True):
                    remember(unit, eta, slope, (loss - new) * slope / sum(slopes))
        else:
            order = {
                "cycle": lambda unit: unit["waited"],
                "impact": lambda unit: unit["waited"] * unit["s"] / (1 - past ** unit["searches"]),
            }
            chosen = units if rule == "all" else [max(units, key=order[rule])]
            searched = None if len(chosen) > 1 else chosen[0]["members"]
            trials, found = 0, []
            for unit in chosen:
                eta, new, more, (slope,) = try_along([unit], [1.0], first_size(unit))
                trials += more
                if eta is not None:
                    found.append((unit, eta, slope, loss - new))
            factor = 1.0
            if len(found) > 1:
                factor, _, more, _ = try_along([f[0] for f in found], [f[1] for f in found], 1.0)
                trials += more
            for unit, eta, slope, decrease in found:
                remember(unit, factor * eta, slope, decrease)
                point = along(point, base.direction(), factor * eta, unit["members"])
            for unit in units:
                if unit not in chosen:
                    point = along(point, base.direction(), unit["eta"], unit["members"])
            for unit in list(chosen) if merge_threshold else []:
                if unit["eta"] < merge_threshold and len(units) > 1:
                    place = units.index(unit)
                    neighbour = units[place - 1 if place else 1]
                    neighbour["members"] = neighbour["members"] + unit["members"]
                    neighbour["h"] += unit["h"]
                    neighbour["s"] += unit["s"]
                    units.remove(unit)
        trace.loss.append(loss)
        trace.step_size.append([next(u["eta"] for u in units if i in u["members"]) for i in range(len(point))])
        trace.trials.append(trials)
        trace.searched.append(searched)
        trace.point.append(point)
    return trace
