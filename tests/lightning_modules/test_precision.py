"""Every precision that Lightning has on a CPU, and checkpoints in half precision that train in float32."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from transformers import AutoModelForSequenceClassification

from lightning_modules import BottleneckConfig, ModelError, SequenceClassifier, StepClosures
from optimizers import GLD, SGDSLS, AdamSLS, AdamWL2SP, LineSearchMeZO, MeZO, ParabolicAdam, SaLSA
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData

METHODS = {
    "torch sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "torch adamw": torch.optim.AdamW,
    "torch fused adamw": partial(torch.optim.AdamW, fused=True),
    "adamw l2-sp": AdamWL2SP,
    "sgd": SGDSLS,
    "adam": AdamSLS,
    "salsa": SaLSA,
    "parabolic": ParabolicAdam,
    "gld": partial(GLD, radius=0.05),
    "gld at once": partial(GLD, radius=0.05, candidates="at_once"),
    "mezo": MeZO,
    "line search mezo": LineSearchMeZO,
}
PARAMETERS = {
    "bf16-mixed": torch.float32,
    "16-mixed": torch.float32,
    "bf16-true": torch.bfloat16,
    "16-true": torch.float16,
    "64-true": torch.float64,
}
GRADIENT_FREE = ("gld", "gld at once", "mezo", "line search mezo")


def trainer_for(folder: Path, precision: str, **options: Any) -> Trainer:
    if precision == "16-mixed":  # Lightning makes bf16-mixed of it on a CPU, where torch has a scaler as well
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        options["plugins"] = [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    else:
        options["precision"] = precision
    return quiet_trainer(default_root_dir=folder, **({"max_epochs": 1, "limit_val_batches": 0} | options))


class PreciseSum(torch.optim.Optimizer):
    """Divides by the root of a sum of squares, in float32 whatever the weights are in, as MADGRAD's and CAME's."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any) -> Any:
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    squares = self.state[p].setdefault("sum", torch.ones_like(p, dtype=torch.float32))
                    squares.add_(p.grad.float().square())
                    p.sub_(group["lr"] * p.grad / squares.sqrt())
        return loss


@pytest.mark.parametrize("precision", ["bf16-true", "32-true"])
def test_state_of_a_higher_precision_than_the_weights_is_resumed_as_it_was(
    precision: str, tiny: str, tmp_path: Path
) -> None:
    """torch 2.13's load_state_dict rounds it to the precision of the weights; a run that is now in it takes that."""

    def fit(epochs: int, precision: str, ckpt_path: str | None = None) -> Trainer:
        torch.manual_seed(0)
        trainer = trainer_for(tmp_path, precision, max_epochs=epochs)
        trainer.fit(SequenceClassifier(tiny, 2, optimizer=PreciseSum), TinyData(), ckpt_path=ckpt_path)
        return trainer

    def sums(trainer: Trainer) -> list[torch.Tensor]:
        return [state["sum"] for state in trainer.optimizers[0].state.values()]

    first, path = fit(1, precision), str(tmp_path / "first.ckpt")
    first.save_checkpoint(path)
    whole, resumed = sums(fit(2, "bf16-true")), sums(fit(2, "bf16-true", path))
    if precision == "bf16-true":
        assert whole[0].dtype == torch.float32
        assert all(map(torch.equal, whole, resumed))
    else:
        assert {each.dtype for each in resumed} == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize("precision", PARAMETERS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_in_every_precision(method: str, precision: str, tiny: str, tmp_path: Path) -> None:
    module = SequenceClassifier(tiny, optimizer=METHODS[method], trainable="head" if "gld" in method else "all")
    if precision == "16-mixed" and method in GRADIENT_FREE:
        with pytest.raises(ModelError, match="no gradient for the scaler of 16-mixed"):
            trainer_for(tmp_path, precision).fit(module, TinyData(16, 8))
        return
    if precision == "16-true" and "adamw" in method:
        with pytest.raises(ModelError, match=r"eps of 1e-08 is 0 in torch.float16, whose smallest number is 6e-08"):
            trainer_for(tmp_path, precision).fit(module, TinyData(16, 8))
        return
    before = [p.detach().clone() for p in module.model.parameters() if p.requires_grad]
    trainer = trainer_for(tmp_path, precision)
    trainer.fit(module, TinyData(16, 8))
    after = [p for p in module.model.parameters() if p.requires_grad]
    assert trainer.global_step == 2
    assert {p.dtype for p in after} == {PARAMETERS[precision]}
    assert all(p.isfinite().all() for p in after)
    assert trainer.callback_metrics["train/skipped_steps"] == 0
    assert 0.3 < trainer.callback_metrics["train/loss"] < 3
    if method not in ("mezo", "gld", "gld at once"):  # steps of 1e-6; candidates that may all be worse
        assert any(not torch.equal(a, b.to(a.dtype)) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_candidates_at_once_are_compared_with_a_start_that_is_computed_as_they_are(
    precision: str, tiny: str, tmp_path: Path
) -> None:
    """A loss that no candidate can lower: all radii are 0. The kernels for one and for several round otherwise."""

    class Many(SequenceClassifier):
        def step_closures(self, batches: list[Any], optimizer: Any) -> StepClosures:
            step = super().step_closures(batches, optimizer)
            evaluate_many = step.evaluate_many
            self.seen: list[torch.Tensor] = []
            step.evaluate_many = lambda *args: self.seen.append(evaluate_many(*args)) or self.seen[-1]  # type: ignore
            return step

    module = Many(tiny, optimizer=partial(GLD, radius=1e-30, candidates="at_once"), trainable="head", dropout=0.0)
    trainer = trainer_for(tmp_path, precision)
    trainer.fit(module, TinyData(16, 8))
    assert all(len(set(losses.tolist())) == 1 for losses in module.seen)
    assert not trainer.optimizers[0].last_step.accepted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_was_saved_in_half_precision_trains_in_float32(dtype: torch.dtype, tiny: str, tmp_path: Path) -> None:
    half = tmp_path / "half"
    AutoModelForSequenceClassification.from_pretrained(tiny).to(dtype).save_pretrained(half)
    lora = peft.LoraConfig(r=2, target_modules=["query"])
    ways: dict[str, Any] = {
        "configuration": {"pretrained": False},
        "weights": {},
        "lora": {"adapter": lora},
        "bottleneck": {"adapter": BottleneckConfig()},
    }
    for name in ("lora", "bottleneck"):
        adapted = SequenceClassifier(str(half), **ways[name])
        adapted.model.to(dtype)
        adapted.adapted.save(tmp_path / name)
        ways[f"saved {name}"] = {"adapter": str(tmp_path / name)}
    merged = SequenceClassifier(str(half), adapter=lora)
    merged.model.to(dtype)
    merged.adapted.merge().save_pretrained(tmp_path / "merged")
    ways["merged"] = {"model": str(tmp_path / "merged")}
    for name, way in ways.items():
        module = SequenceClassifier(**({"model": str(half)} | way))
        assert {p.dtype for p in module.parameters()} == {torch.float32}, name

    # Ten steps of AdamW move nearly all entries; in bfloat16 1 % of them, and float16 ended at NaN.
    module = SequenceClassifier(str(half), pretrained=False, optimizer=partial(torch.optim.AdamW, lr=1e-5))
    before = [p.detach().clone() for p in module.model.bert.encoder.parameters()]
    trainer_for(tmp_path, "bf16-mixed", max_steps=10, max_epochs=3).fit(module, TinyData(32, 8))
    after = list(module.model.bert.encoder.parameters())
    moved = sum(int((a != b).sum()) for a, b in zip(after, before, strict=True))
    assert moved > 0.9 * sum(p.numel() for p in after)


def test_a_checkpoint_of_a_half_precision_run_goes_on_in_float32(tiny: str, tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, "bf16-true")
    trainer.fit(SequenceClassifier(tiny, optimizer=SaLSA), TinyData(16, 8))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    module = SequenceClassifier(tiny, optimizer=SaLSA)
    trainer = trainer_for(tmp_path, "32-true", max_epochs=2)
    trainer.fit(module, TinyData(16, 8), ckpt_path=tmp_path / "half.ckpt")
    assert trainer.global_step == 4
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    states = trainer.optimizers[0].state.values()
    assert {state["exp_avg"].dtype for state in states} == {torch.float32}
