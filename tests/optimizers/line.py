"""A line to search along, for the searches alone."""

from __future__ import annotations


class Line:
    """A function of the step size that remembers where it was called."""

    def __init__(self, function):
        self.function = function
        self.calls = []

    def __call__(self, step_size):
        self.calls.append(step_size)
        return self.function(step_size)
