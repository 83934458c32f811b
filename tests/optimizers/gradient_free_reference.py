"""Gradient-free methods in NumPy and float64, written from the papers' algorithms.

Nothing here imports torch or the code under test. A point is a flat list of arrays. Random numbers come from outside:
``noise(step, unit, leaf, candidate, shape)`` gives the normals of a candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


def loss_of(problem):
    """The loss of a reference problem, whose points are lists of units, at a flat point."""

    def loss(point, step):
        arrays = iter(point)
        return problem.loss([[next(arrays) for _ in unit] for unit in problem.start], step)

    return loss


def gld(loss, point, steps, noise, *, radius, num_radii, norm_weight=0.0, success_rate=None, adaptation_rate=0.1):
    """Gradientless descent with one array per unit. ``loss(point, step)``; ``radius(step)``. Returns all points."""
    point, trace = [array.copy() for array in point], []
    factors = [1.0] * len(point)
    for step in range(steps):
        for unit in range(len(point)):
            candidates = [point[unit]]
            for k in range(num_radii):
                v = radius(step) * factors[unit] * 0.5**k * noise(step, unit, 0, k, point[unit].shape)
                candidates.append(point[unit] + v)
            objectives = [
                loss([*point[:unit], array, *point[unit + 1 :]], step) + norm_weight * np.linalg.norm(array)
                for array in candidates
            ]
            best = int(np.argmin(objectives))
            point[unit] = candidates[best]
            if success_rate is not None:
                factors[unit] *= np.exp(adaptation_rate * ((best > 0) - success_rate))
        trace.append([array.copy() for array in point])
    return trace


@dataclass
class Option:
    """A possible update of one array, with the options that would follow it."""

    update: np.ndarray
    loss: float = np.inf
    options: list = field(default_factory=list)


def gld_with_options(loss, point, steps, noise, *, radius, num_radii, levels, width, norm_weight=0.0):
    """Gradientless descent with a tree of options per array; each array rests at the best leaf of its tree."""
    roots = [array.copy() for array in point]
    trees = []
    for array in point:
        options = []
        for _ in range(levels):
            options = [Option(np.zeros_like(array), options=options)]
        trees.append(options)
    resting = [array.copy() for array in point]
    trace = []
    for step in range(steps):
        for unit in range(len(roots)):

            def loss_at(array, unit=unit, step=step):
                norm = np.linalg.norm(array) if norm_weight else 0.0
                return loss([*resting[:unit], array, *resting[unit + 1 :]], step) + norm_weight * norm

            here, leaf_number = loss_at(resting[unit]), 0
            best = (here, None, None, None)

            def visit(option, array, first, unit=unit, step=step, loss_at=loss_at):
                nonlocal leaf_number, best
                array = array + option.update
                if option.options:
                    for child in option.options:
                        visit(child, array, first)
                    return
                found = [Option(np.zeros_like(array), loss_at(array))]
                for k in range(num_radii):
                    v = radius(step) * 0.5**k * noise(step, unit, leaf_number, k, array.shape)
                    found.append(Option(v, loss_at(array + v)))
                leaf_number += 1
                found.sort(key=lambda each: each.loss)
                option.options = found[:width]
                if found[0].loss < best[0]:
                    best = (found[0].loss, first, array + found[0].update, option)

            for first in trees[unit]:
                visit(first, roots[unit], first)
            if best[1] is None:  # nothing is lower: the tree goes on above the leaf where the array rests
                best = (here, *_leading_to(trees[unit], roots[unit], resting[unit]))
            _, first, resting[unit], _ = best
            roots[unit] = roots[unit] + first.update
            trees[unit] = first.options
        trace.append([array.copy() for array in resting])
    return trace


def _leading_to(options, root, target):
    for first in options:
        stack = [(first, root + first.update)]
        while stack:
            option, array = stack.pop()
            if not option.options and np.allclose(array, target, rtol=0, atol=1e-12):
                return first, array, option
            stack += [(child, array + child.update) for child in option.options]
    raise AssertionError("the array rests at no leaf of its tree")


def mezo(loss, point, steps, noise, *, lr, epsilon, weight_decay=0.0):
    """Zeroth-order SGD; ``noise(step, shapes)`` gives the direction. Returns all points and projected gradients."""
    point, trace, gradients = [array.copy() for array in point], [], []
    for step in range(steps):
        z = noise(step, [array.shape for array in point])
        plus = loss([array + epsilon * d for array, d in zip(point, z, strict=True)], step)
        minus = loss([array - epsilon * d for array, d in zip(point, z, strict=True)], step)
        g = (plus - minus) / (2 * epsilon)
        point = [array - lr(step) * (g * d + weight_decay * array) for array, d in zip(point, z, strict=True)]
        trace.append(point)
        gradients.append(g)
    return trace, gradients


def line_search_mezo(loss, point, steps, noise, *, first, c, shrink, growth, epsilon):
    """The same direction with Armijo backtracking; ``first`` is the first trial of the first search."""
    point, trace, step_sizes, eta = [array.copy() for array in point], [], [], first
    for step in range(steps):
        z = noise(step, [array.shape for array in point])

        def at(t, point=point, z=z, step=step):
            return loss([array + t * d for array, d in zip(point, z, strict=True)], step)

        g = (at(epsilon) - at(-epsilon)) / (2 * epsilon)
        start = at(0.0)
        eta = min(eta, 1000 * epsilon / abs(g))
        while at(-eta * g) > start - c * eta * g**2:
            eta *= shrink
        point = [array - eta * g * d for array, d in zip(point, z, strict=True)]
        trace.append(point)
        step_sizes.append(eta)
        eta *= growth
    return trace, step_sizes
