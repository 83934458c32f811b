"""The examples for transformers' Trainer and for accelerate: they learn, accumulate, and resume to the very bits."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path

import accelerate
import pytest
import torch
import transformers
from torch.utils.data import DataLoader

from optimizers import GLD, ParabolicAdam, ParamGroups, SaLSA
from tests.tiny_models import rows, save_tiny_bert

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
METHODS = {"salsa": SaLSA, "parabolic": partial(ParabolicAdam, total_steps=8)}
OTHERS = {"gld": GLD, "adamw": partial(torch.optim.AdamW, lr=1e-3)}
DIVISION = ParamGroups(new_lr_factor=ParabolicAdam.new_lr_factor)
DATA = [{name: row[name] for name in ("input_ids", "attention_mask", "labels")} for row in rows(32)]


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model(tmp_path):
    """Return a classifier from a checkpoint that holds the encoder alone, and the names of what is new."""
    folder = save_tiny_bert(tmp_path / "model")
    transformers.AutoModel.from_pretrained(folder).save_pretrained(folder)
    made, info = transformers.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    return made, info["missing_keys"]


def assert_equal(one, other):
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def trainer(method, tmp_path, **options):
    defaults = {
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0,
        "save_steps": 4,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
    }
    arguments = transformers.TrainingArguments(str(tmp_path / "out"), **(defaults | options))
    net, new = model(tmp_path)
    return example("hf_trainer").SearchTrainer(
        lambda model: (METHODS | OTHERS)[method](DIVISION(model, new)), model=net, args=arguments, train_dataset=DATA
    )


@pytest.mark.parametrize("method", METHODS)
def test_transformers_trainer(method, tmp_path):
    through = trainer(method, tmp_path)
    measured = []
    create = through.create_optimizer
    through.create_optimizer = lambda model=None: watched(create(), measured)
    through.train()
    assert len(measured) == 8
    assert all(loss == evaluated for loss, evaluated in measured), (
        "the loss at the start is what evaluate computes there"
    )
    factors = {
        name: group["lr_factor"]
        for group in through.optimizer.param_groups
        for name, parameter in through.model.named_parameters()
        if any(parameter is each for each in group["params"])
    }
    assert {name for name, factor in factors.items() if factor == 10} == {"classifier.weight", "classifier.bias"}
    resumed = trainer(method, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert_equal(through.model, resumed.model)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("error:.*something has set lr between two steps")
def test_transformers_trainer_leaves_step_sizes_alone(method, tmp_path):
    """Its own schedule would set them after each step."""
    of_run = trainer(method, tmp_path)
    of_run.train()
    assert type(of_run.lr_scheduler).__name__ == "NoSchedule"


@pytest.mark.parametrize("method", OTHERS)
def test_transformers_trainer_with_other_optimizers(method, tmp_path):
    """One without gradients and one that needs no loss, for which no batch is to be kept."""
    of_run = trainer(method, tmp_path, max_steps=3)
    before = [p.detach().clone() for p in of_run.model.parameters()]
    of_run.train()
    assert not all(torch.equal(a, b) for a, b in zip(before, of_run.model.parameters(), strict=True))
    assert of_run.micro_batches == []


def watched(optimizer, measured):
    """Compare, in front of every step, the loss that is handed over with that of `evaluate` at the same point."""

    def compare(optimizer, args, kwargs):
        measured.append((kwargs["loss"].item(), kwargs["evaluate"]().item()))

    optimizer.register_step_pre_hook(compare)
    return optimizer


def test_clipping_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_grad_norm: clipping falsifies the slope"):
        trainer("salsa", tmp_path, max_grad_norm=1.0).train()


@pytest.mark.parametrize("method", METHODS)
def test_accelerate_loop(method, tmp_path):
    loop = example("accelerate_loop")
    measured = []

    def parts():
        accelerate.state.AcceleratorState._reset_state(True)
        torch.manual_seed(0)
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        net, new = model(tmp_path)
        optimizer = METHODS[method](DIVISION(net, new))
        losses = loop.Losses(accelerator, optimizer)
        watched(optimizer, measured)
        return accelerator, *accelerator.prepare(net, optimizer, DataLoader(DATA, batch_size=4)), losses

    accelerator, net, optimizer, batches, losses = parts()
    loop.train(accelerator, net, optimizer, batches, losses)
    accelerator.save_state(str(tmp_path / "state"))
    loop.train(accelerator, net, optimizer, batches, losses)
    assert len(measured) == 8
    assert all(loss == evaluated for loss, evaluated in measured)
    accelerator, again, optimizer, batches, losses = parts()
    accelerator.load_state(str(tmp_path / "state"))
    loop.train(accelerator, again, optimizer, batches, losses)
    assert_equal(net, again)


def test_the_trainer_is_short():
    assert len((EXAMPLES / "hf_trainer.py").read_text().splitlines()) <= 80
