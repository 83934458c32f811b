"""Logging and metric updates within the loss of a step, which count once however often the loss is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from optimizers.replaced_attribute import replaced_attribute


class LoggedOnce:
    """Lets the computations of one step's loss call ``self.log`` and update metrics, with an effect the first time.

    A step computes its loss again at other parameters. What is logged there belongs to no step that is made, and would
    count in the means of an epoch.

    Args:
        module: The module whose ``log`` is called.
        metrics: What :func:`metrics_within` has found in it.
    """

    def __init__(self, module: LightningModule, metrics: Sequence[Metric | MetricCollection]) -> None:
        self._module = module
        self._metrics = metrics
        self._is_first = True
        self._updates_metrics = False

    @contextmanager
    def computation(self) -> Iterator[None]:
        """Context of one computation of the loss."""
        if self._is_first:
            before = self._update_counts()
            yield
            self._is_first, self._updates_metrics = False, self._update_counts() != before
            return
        attributes = _with_copied_states(self._metrics) if self._updates_metrics else []
        try:
            with replaced_attribute(self._module, "log", _log_nothing):
                yield
        finally:
            for metric, values in zip(self._metrics, attributes, strict=False):
                vars(metric).clear()
                vars(metric).update(values)

    def _update_counts(self) -> list[int]:
        return [metric.update_count for metric in self._metrics if isinstance(metric, Metric)]


def metrics_within(module: nn.Module) -> list[Metric | MetricCollection]:
    """Return the torchmetrics within a module, collections as well as what is in them."""
    return [each for each in module.modules() if isinstance(each, Metric | MetricCollection)]


def _with_copied_states(metrics: Sequence[Metric | MetricCollection]) -> list[dict[str, Any]]:
    """Let metrics go on with copies of their states, which they add to in place; return what their attributes were."""
    attributes = [dict(vars(metric)) for metric in metrics]
    for metric in metrics:
        if isinstance(metric, Metric):
            states = metric.metric_state.items()
            vars(metric).update({name: v.clone() if isinstance(v, Tensor) else list(v) for name, v in states})
    return attributes


def _log_nothing(*_: Any, **__: Any) -> None:
    pass
