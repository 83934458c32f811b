"""Every scheme with every kind of optimizer, fresh and resumed, each pair on one of the architectures."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_modules import ModelError, Schedule, SequenceClassifier
from optimizers import GLD, AdamSLS, ParabolicAdam, ParamGroups, SaLSA, named_parts
from tests.architectures import ARCHITECTURES, save_pretrained_backbone
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import TinyData

SCHEMES = {path.stem: path for path in sorted((Path(__file__).parent.parent / "configs" / "schemes").glob("*.yaml"))}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "AdamW": partial(torch.optim.AdamW, lr=1e-2),
    "AdamSLS": AdamSLS,
    "SaLSA": SaLSA,
    "ParabolicAdam": ParabolicAdam,
    "GLD": partial(GLD, units="group", num_radii=2, radius=1e-2),
}
OWN = [name for name, path in SCHEMES.items() if "optimizer" in yaml.safe_load(path.read_text()).get("model", {})]
PAIRS = [*itertools.product(SCHEMES, OPTIMIZERS), *((name, "own") for name in OWN)]


def imported(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def made(section: dict[str, Any]) -> Any:
    """An object from its class_path and init_args."""
    return imported(section["class_path"])(**section.get("init_args", {}))


def deferred(section: dict[str, Any]) -> Callable[..., Any]:
    """What LightningCLI makes of a class that gets its first argument later."""
    return partial(imported(section["class_path"]), **section.get("init_args", {}))


def build(scheme: str, optimizer: str, model: str) -> tuple[SequenceClassifier, list[Any]]:
    """The module and the callbacks of a scheme's configuration, with an optimizer in place of its own."""
    config = yaml.safe_load(SCHEMES[scheme].read_text())
    section = config.get("model", {})
    arguments: dict[str, Any] = {
        "optimizer": deferred(section["optimizer"]) if optimizer == "own" else OPTIMIZERS[optimizer]
    }
    if section.get("lr_scheduler"):
        settings = dict(section["lr_scheduler"])
        arguments["lr_scheduler"] = Schedule(deferred(settings.pop("scheduler")), **settings)
    if "adapter" in section:
        arguments["adapter"] = made(section["adapter"])
    if "param_groups" in section:
        arguments["param_groups"] = ParamGroups(**section["param_groups"])
    torch.manual_seed(1)
    module = SequenceClassifier(model, **arguments)
    for dropout in (child for child in module.modules() if isinstance(child, torch.nn.Dropout)):
        dropout.p = 0.0  # a checkpoint holds no generator states: masks would differ after a restart
    return module, [made(callback) for callback in config.get("trainer", {}).get("callbacks+", [])]


def fit(module: SequenceClassifier, callbacks: list[Any], folder: Path, ckpt_path: Path | None = None) -> Trainer:
    trainer = quiet_trainer(
        max_epochs=2,
        limit_val_batches=0,
        callbacks=[*callbacks, ModelCheckpoint(folder / "checkpoints", save_top_k=-1, filename="{epoch}")],
        default_root_dir=folder,
        enable_checkpointing=True,
    )
    trainer.fit(module, TinyData(count=16, batch_size=8), ckpt_path=ckpt_path)
    return trainer


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: save_pretrained_backbone(tmp_path_factory.mktemp(name), name) for name in ARCHITECTURES}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("scheme", "optimizer", "architecture"),
    [(*pair, ARCHITECTURES[index % len(ARCHITECTURES)]) for index, pair in enumerate(PAIRS)],
)
def test_a_scheme_composes_with_an_optimizer_and_resumes(
    scheme: str, optimizer: str, architecture: str, backbones: dict[str, str], tmp_path: Path
) -> None:
    module, callbacks = build(scheme, optimizer, backbones[architecture])
    if scheme == "triangular" and optimizer in ("AdamSLS", "SaLSA", "ParabolicAdam"):
        with pytest.raises(ModelError, match="finds its own step size"):
            fit(module, callbacks, tmp_path)
        return
    before = {name: value.clone() for name, value in module.model.state_dict().items()}
    frozen = [name for name, parameter in module.model.named_parameters() if not parameter.requires_grad]
    parts = [part.name for part in named_parts(module.model)]
    trainer = fit(module, callbacks, tmp_path)
    after = module.model.state_dict()

    assert math.isfinite(float(trainer.callback_metrics["train/loss"]))
    assert trainer.global_step == 4
    assert all(torch.equal(after[name], before[name]) for name in frozen)
    moved = {
        part.name
        for part in named_parts(module.model)
        if any(not torch.equal(after[name], before[name]) for name, _ in part.parameters)
    }
    if optimizer not in ("AdamSLS", "SaLSA", "ParabolicAdam", "GLD"):
        # In two epochs gradual unfreezing reaches the uppermost layer.
        assert moved == set(parts[-2:] if scheme == "gradual_unfreezing" else parts)
    else:
        assert moved <= set(parts[-2:] if scheme == "gradual_unfreezing" else parts)
        assert moved

    resumed, callbacks = build(scheme, optimizer, backbones[architecture])
    fit(resumed, callbacks, tmp_path, ckpt_path=tmp_path / "checkpoints" / "epoch=0.ckpt")
    for (name, ours), theirs in zip(resumed.model.named_parameters(), module.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
