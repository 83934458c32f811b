"""Steps per second, bytes sent and time in collectives on several ranks, and a model of what a search costs there.

    python -m benchmarks.scaling --ranks 1 2 4 --models tiny minilm --steps 30 --out benchmarks/results/scaling

Ranks are processes of this machine (gloo, CPU), each with one thread. The examples of a step are dealt to the ranks, so
that all numbers of ranks make the same steps.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import os
import shlex
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.multiprocessing as mp
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.optim import AdamW
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, DistributedSampler
from transformers import BertConfig

from benchmarks import markdown
from benchmarks.study.machine import describe_machine
from lightning_modules import SequenceClassifier
from lightning_modules.closures import StepClosures
from lightning_modules.trainer.reduction import reduced
from optimizers import GLD, MeZO, ParabolicAdam, SaLSA

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "AdamW": partial(AdamW, lr=2e-5),
    "ParabolicAdam": ParabolicAdam,
    "SaLSA": SaLSA,
    "MeZO": partial(MeZO, lr=1e-6),
    "GLD, head": partial(GLD, radius=7.5e-3),
}
# Layers, hidden size, inner size, tokens of the vocabulary.
MODELS = {"tiny": (2, 32, 64, 1_000), "minilm": (6, 384, 1_536, 30_522)}
BATCH_SIZE = 16
FLOAT = 4  # bytes
TRIALS = 25  # that are timed, beside the steps


class Measurement(NamedTuple):
    """What one rank measured of a run.

    Args:
        steps_per_second: Optimizer steps per second of wall-clock time, outside the profiler.
        bytes_per_step: Bytes of the tensors that the rank handed to collectives, per step.
        messages_per_step: Collectives per step.
        collective_share: Share of the profiled steps' time that the rank spent in collectives, waiting included.
        evaluations: Trials per step.
        parameters: Trainable parameters.
        trial_seconds: Of one trial: the loss of the rank's share of the batch, averaged over ranks. Median.
        forward_seconds: Of the loss of a rank's share alone, on the slowest rank. Median.
        all_reduce_seconds: Of an all-reduce of one number, one after the other. Median.
    """

    steps_per_second: float
    bytes_per_step: float
    messages_per_step: float
    collective_share: float
    evaluations: float
    parameters: int
    trial_seconds: float
    forward_seconds: float
    all_reduce_seconds: float


class Timed(SequenceClassifier):
    """Times the steps after the first ones, profiles the last ones, and then times a trial and what it is made of.

    Args:
        warm_up: Steps before the clock starts.
        profiled: Steps that are profiled, at the end.
        total: All steps.
        options: The arguments of :class:`SequenceClassifier`.
    """

    def __init__(self, warm_up: int, profiled: int, total: int, **options: Any) -> None:
        super().__init__(**options)
        self.warm_up, self.profiled, self.total = warm_up, profiled, total
        self.profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
        self.begun = self.timed = self.profiled_from = self.profiled_seconds = 0.0
        self.trials: list[int] = []
        self.parts = (0.0, 0.0, 0.0)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.warm_up:
            self.begun = time.perf_counter()
        if batch_idx == self.total - self.profiled:
            self.timed = time.perf_counter() - self.begun
            self.profiler.start()
            self.profiled_from = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx >= self.total - self.profiled:
            record = getattr(self.trainer.optimizers[0], "last_step", None)
            self.trials.append(0 if record is None else record.evaluations)
        if batch_idx == self.total - 1:
            self.profiled_seconds = time.perf_counter() - self.profiled_from
            self.profiler.stop()
            self.parts = self._seconds_of_a_trial(batch)

    def _seconds_of_a_trial(self, batch: Any) -> tuple[float, float, float]:
        """Return the seconds of a trial, of its forward pass and of its all-reduce, measured in turn."""
        parts = self.prepare_batch(batch, "train")
        step = self.step_closures(parts, self._single_optimizer())
        alone = StepClosures(self.compute_loss, parts, zero_grad=self.zero_grad, backward=Tensor.backward, module=self)
        number, strategy = torch.zeros(()), self.trainer.strategy
        calls = (step.evaluate, alone.evaluate, lambda: reduced(number, strategy, "mean"))
        found = torch.zeros(TRIALS, len(calls), dtype=torch.float64)
        for repeat in range(TRIALS):
            for each in range(repeat, repeat + len(calls)):  # none is always the first
                strategy.barrier()
                started = time.perf_counter()
                calls[each % len(calls)]()
                found[repeat, each % len(calls)] = time.perf_counter() - started
        slowest = strategy.all_gather(found).view(-1, *found.shape).amax(0)
        trial, forward, all_reduce = slowest.median(0).values.tolist()
        return trial, forward, all_reduce if self.trainer.world_size > 1 else 0.0

    def measurement(self) -> Measurement:
        """Return what was measured."""
        events = [event for event in self.profiler.events() if event.name.startswith("gloo:")]
        entries = sum(math.prod(shape) for event in events for shape in event.input_shapes)
        return Measurement(
            (self.total - self.profiled - self.warm_up) / self.timed,
            entries * FLOAT / self.profiled,
            len(events) / self.profiled,
            sum(event.cpu_time_total for event in events) / 1e6 / self.profiled_seconds,
            sum(self.trials) / self.profiled,
            sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad),
            *self.parts,
        )


def examples(count: int, vocabulary: int, length: int = 32) -> list[dict[str, torch.Tensor]]:
    """Return random texts whose label is the half of the vocabulary that their tokens come from."""
    generator = torch.Generator().manual_seed(0)
    half = vocabulary // 2
    return [
        {
            "input_ids": torch.randint(1 + half * (index % 2), half * (1 + index % 2), (length,), generator=generator),
            "attention_mask": torch.ones(length, dtype=torch.long),
            "labels": torch.tensor(index % 2),
        }
        for index in range(count)
    ]


def measure(rank: int, ranks: int, port: int, model: str, optimizer: str, steps: int, folder: str) -> None:
    """Run one optimizer on one rank and write what was measured; the function of a process."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Timed(
        *(min(3, steps // 4), max(2, steps // 4), steps),
        model=folder,
        pretrained=False,
        dropout=0.0,
        optimizer=OPTIMIZERS[optimizer],
        trainable="head" if "head" in optimizer else "all",
    )
    data: Any = examples(steps * BATCH_SIZE, MODELS[model][3])
    loader: DataLoader[Any] = DataLoader(
        data, BATCH_SIZE // ranks, sampler=DistributedSampler(data, ranks, rank, shuffle=False)
    )
    Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto",
        use_distributed_sampler=False,
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, loader)
    torch.save(module.measurement()._asdict(), Path(folder) / f"{rank}.pt")


def measured_on(ranks: int, model: str, optimizer: str, steps: int) -> list[Measurement]:
    """Run one optimizer on some ranks and return what each of them measured."""
    layers, hidden, inner, vocabulary = MODELS[model]
    sizes: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "num_hidden_layers": layers,
    }
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        BertConfig(num_attention_heads=hidden // 32 or 1, **sizes).save_pretrained(folder)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        arguments = (ranks, port, model, optimizer, steps, folder)
        mp.start_processes(measure, args=arguments, nprocs=ranks, start_method="fork")
        return [Measurement(**torch.load(Path(folder) / f"{rank}.pt")) for rank in range(ranks)]


def predicted_bytes(measurement: Measurement, optimizer: str) -> float:
    """Return the bytes per step that the model of the docs predicts for one rank: gradients and scalars.

    A step sends the gradients once, if it needs any; a loss per evaluation; the step's own loss with whether it is
    finite; and the number of examples with a one.
    """
    needs_gradient = optimizer not in ("MeZO", "GLD, head")
    gradients = measurement.parameters if needs_gradient else 0
    losses = measurement.evaluations + (2 if needs_gradient else 0)
    return FLOAT * (gradients + losses + 2)


def search_seconds(ranks: int, trials: float, latency: float, forward: float) -> float:
    r"""Return what a search adds to a step: :math:`n (t_f + 2 l \log_2 R)` for :math:`n` trials on :math:`R` ranks.

    Args:
        ranks: :math:`R`.
        trials: :math:`n`.
        latency: :math:`l`, seconds of a message between two ranks; an all-reduce of one number goes up and down a tree.
        forward: :math:`t_f`, seconds of a forward pass on a rank's own share of the batch.
    """
    return trials * (forward + 2 * latency * math.log2(ranks))


def row_of_steps(found: Measurement, predicted: float) -> dict[str, float]:
    """Return the columns of the first table.

    Args:
        found: The measurement.
        predicted: The bytes per step that are to be expected.
    """
    return {
        "steps per s": found.steps_per_second,
        "trials per step": found.evaluations,
        "bytes per step": found.bytes_per_step,
        "predicted": predicted,
        "collectives per step": found.messages_per_step,
        "share of time": found.collective_share,
    }


def row_of_a_trial(found: Measurement) -> dict[str, float]:
    """Return the columns of the second table."""
    return {
        "trial": 1e3 * found.trial_seconds,
        "forward pass": 1e3 * found.forward_seconds,
        "all-reduce": 1e3 * found.all_reduce_seconds,
        "trial ÷ model": found.trial_seconds / (found.forward_seconds + found.all_reduce_seconds),
    }


def report(rows: list[dict[str, Any]], trials: list[dict[str, Any]], machine: dict[str, Any], arguments: str) -> str:
    """Return the report as Markdown.

    Args:
        rows: The measurements of steps.
        trials: The measurements of trials.
        machine: What :func:`describe_machine` said before the first run.
        arguments: The command's.
    """
    model = pd.DataFrame(
        [
            {"ranks": ranks, **{f"{name}, ms": 1e3 * search_seconds(ranks, 1, latency, 0.0) for name, latency in LINKS}}
            for ranks in (2, 8, 64, 512, 4_096)
        ]
    )
    return "\n\n".join(
        [
            "# Scaling over ranks",
            f"- command: `python -m benchmarks.scaling {arguments}`\n"
            f"- code: all tables at commit {machine['commit']}, one version of the code\n"
            f"- {machine['cpu']}, {machine['cores']} cores, one thread per rank; torch {torch.__version__}",
            "Ranks are processes that share this machine's cores, so that steps per second say what ranks cost, not "
            "what they gain. Bytes are of the tensors that a rank hands to collectives; predicted: gradients, one "
            "float32 per trial, and four numbers per step; three collectives of 12 bytes in all at a run's start are "
            "spread over its steps. The share of time includes waiting for other ranks.",
            markdown.table_of(_formatted(pd.DataFrame(rows), ".4g")),
            "## What a trial costs, measured",
            "Milliseconds of one trial, of the forward pass in it and of an all-reduce of one number, each after a "
            f"barrier, of the slowest rank, medians of {TRIALS}. By the model a trial takes what the other two do. "
            "Ranks that share cores with each other and with other programs take turns: each of the three holds waits.",
            markdown.table_of(_formatted(pd.DataFrame(trials), ".3g")),
            "## What a trial costs by the model",
            "One trial is a forward pass on the rank's own share of the batch, and an all-reduce of one number, "
            "2 l log2(R) with l the latency of a link. Without the forward pass:",
            markdown.table_of(_formatted(model, ".3g")),
        ]
    )


def _formatted(table: pd.DataFrame, digits: str) -> list[dict[str, str]]:
    def text(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return format(value, ",.0f" if abs(value) >= 1_000 else digits)

    return [{str(name): text(value) for name, value in row.items()} for row in table.to_dict("records")]


# Typical latencies, not measured here.
LINKS = (("within a machine (5 us)", 5e-6), ("InfiniBand (10 us)", 1e-5), ("Ethernet (50 us)", 5e-5))


def main() -> None:
    """Measure and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4], help=f"numbers that divide {BATCH_SIZE}")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, default=30, help="at least 8")
    parser.add_argument("--out", type=Path, help="folder for report.md")
    arguments = parser.parse_args()
    if any(ranks < 1 or BATCH_SIZE % ranks for ranks in arguments.ranks):
        parser.error(f"--ranks: {arguments.ranks}: numbers that divide {BATCH_SIZE} are allowed")
    if arguments.steps < 8:
        parser.error(f"--steps: {arguments.steps} is not allowed; 8 or more")
    machine, rows, trials = describe_machine(), [], []
    for model, optimizer, ranks in itertools.product(arguments.models, OPTIMIZERS, arguments.ranks):
        found = measured_on(ranks, model, optimizer, arguments.steps)[0]
        run = {"model": model, "optimizer": optimizer, "ranks": ranks}
        rows.append(run | row_of_steps(found, predicted_bytes(found, optimizer) if ranks > 1 else 0.0))
        trials.append(run | row_of_a_trial(found))
        print(rows[-1] | trials[-1], flush=True)
    text = report(rows, trials, machine, shlex.join(sys.argv[1:]))
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "report.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
