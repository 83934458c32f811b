"""What the parts of one command take: imports, arguments, rows, steps, evaluations, checkpoints, export.

    OMP_NUM_THREADS=1 python -m benchmarks.run_parts fit --config configs/quickstart.yaml

The arguments are those of cli.py, which runs in this process. Each processor second counts for the innermost part that
it was spent in; imports include the start of Python.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import markdown


class Parts:
    """Processor seconds by the innermost part.

    Args:
        clock: Returns seconds. Default: processor seconds of this process.
        before: The part that counts for the time before the first, from where the clock shows 0.
    """

    def __init__(self, clock: Callable[[], float] = time.process_time, before: str = "imports") -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._before = before
        self._within: list[str] = []
        self._since = 0.0

    def counted(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose time counts for a part, but for that of parts within it."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self._note()
            self._within.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._note()
                self._within.pop()

        return run

    def _note(self) -> None:
        now = self._clock()
        # Before the first part: from the start of the process.
        part = self._within[-1] if self._within else self._before if not self.seconds else "rest"
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now

    def table(self) -> str:
        """Return the seconds and shares of the parts, the largest first."""
        total = sum(self.seconds.values())
        rows = sorted(self.seconds.items(), key=lambda each: -each[1])
        shown = [[part, f"{seconds:.2f}", f"{seconds / total:.0%}"] for part, seconds in [*rows, ("sum", total)]]
        return markdown.table(["part", "seconds", "share"], shown)


def main() -> None:
    """Run a command and print what its parts took."""
    from lightning.pytorch import LightningDataModule, Trainer

    import cli
    from callbacks import ConfigSaver, ModelExporter, RunSummary
    from callbacks.checkpoints.checkpoint_io import AtomicCheckpointIO
    from lightning_modules import ClosureModule, SequenceClassifier
    from lightning_modules.closures import StepClosures

    parts = Parts()
    subclasses: list[type] = [LightningDataModule]
    for each in subclasses:
        subclasses += each.__subclasses__()
    named: dict[str, list[tuple[type, str]]] = {
        "arguments and objects": [(cli.LinetuneCLI, "__init__")],
        "the rest of the run": [(Trainer, name) for name in ("fit", "validate", "test", "predict")],
        "rows": [(each, name) for each in subclasses for name in ("prepare_data", "setup") if name in vars(each)],
        "steps: forward and backward": [(StepClosures, "closure")],
        "steps: the rest": [(ClosureModule, "training_step")],
        "evaluation": [(SequenceClassifier, name) for name in ("validation_step", "test_step", "predict_step")],
        "checkpoints": [(AtomicCheckpointIO, "save_checkpoint")],
        "export": [(ModelExporter, "on_fit_end")],
        "configuration and summary, written": [(ConfigSaver, "setup"), (RunSummary, "on_fit_end")],
    }
    for part, methods in named.items():
        for owner, name in methods:
            setattr(owner, name, parts.counted(part, getattr(owner, name)))
    cli.main(sys.argv[1:])
    print(f"\n{parts.table()}")


if __name__ == "__main__":
    main()
