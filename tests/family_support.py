"""What works with each family of models: the table of docs/compatibility.md.

``python -m tests.family_support > docs/compatibility.md`` writes it anew, in some minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast
from transformers import logging as transformers_logging
from transformers.pytorch_utils import Conv1D

from callbacks import GradualUnfreezing
from lightning_modules import BottleneckConfig, SequenceClassifier
from lightning_modules.errors import ModelError
from lightning_modules.models.tiny_input import module_order
from optimizers import AdamSLS, ParabolicAdam, ParamGroups, named_parts
from tests.families import END, FAMILIES, PAD, UNBUILT, VOCAB_SIZE, family_batch, family_model
from tests.quiet_trainer import quiet_trainer

INTRODUCTION = f"""# Compatibility

What works with each family of models that transformers {version("transformers")} classifies texts with, under
torch {version("torch")} and peft {version("peft")}. Each cell is an outcome of `tests/family_support.py`, on a
classifier of a few thousand random weights: it works as described here, or it is refused in one line before training.
This page is written by `python -m tests.family_support`.

- fit: two steps of ParabolicAdam, on a batch padded on the right with token types.
- split by length: `split_by_length: 2` gives the same logits.
- skip padding: `skip_padding: true` gives the same logits without computing padding
  ([how](performance.md#padding)). Where it is refused, padding is computed.
- cache features: `cache_features` under `trainable: head` and `new` gives the same logits.
- units per layer: `param_groups.units: layer` with AdamSLS puts every trainable parameter into one unit.
- gradual unfreezing: the callback `GradualUnfreezing` unfreezes another part at each step.
- LoRA: peft's, on every linear module of the layers; merge: the merged model has the same logits.
- bottleneck: bottleneck adapters after the feed-forward block train.
- export: transformers loads the exported folder and computes the same logits.

Where split by length is refused, the logits of a text depend on its padding, and so on its batch, unless
`data.pad_to_multiple_of` pads all texts to the same length. Where padding on only one side leaves the logits unchanged
(XLNet: left; encoders with absolute positions and models like GPT-2: right), texts are padded there.
"""


class Support:
    """The features that are tried with a family; each method raises where the feature does not do what it promises.

    Args:
        family: One of ``FAMILIES``.
        folder: Where files may go.
    """

    def __init__(self, family: str, folder: Path) -> None:
        self.folder = folder
        # Of two labels: the end of the head is new to the module with three.
        family_model(family, num_labels=2).save_pretrained(folder / "pretrained")
        rows = torch.arange(4)
        self.batch = family_batch() | {"labels": rows % 3, "idx": rows}
        self.batch["token_type_ids"] = (self.batch["input_ids"] > 50).long() * self.batch["attention_mask"]

    def fit(self) -> None:
        module = self.module(optimizer=lambda groups: ParabolicAdam(groups, total_steps=2))
        before = self.outputs(module)
        train(module, [self.batch] * 2)
        assert not torch.equal(self.outputs(module), before)
        assert self.outputs(module).isfinite().all()

    def split_by_length(self) -> None:
        module = self.module(split_by_length=2, dropout=0.0)
        parts = module.prepare_batch(self.batch, "train")
        assert len({part["input_ids"].shape[1] for part in parts}) == 2
        outputs = torch.cat([module._outputs(part) for part in parts])
        rows = torch.cat([part["idx"] for part in parts])
        close(outputs, module(self.batch)[rows])

    def skip_padding(self) -> None:
        module = self.module(skip_padding=True).eval()
        batch = module.padding.on_free_side(self.batch)
        close(module._outputs(batch), module._logits.with_padding(batch))

    def cache_features(self) -> None:
        for trainable in ("head", "new"):
            module = self.module(trainable=trainable, cache_features=str(self.folder / trainable), dropout=0.0)
            expected = module(self.batch)
            part = module.padding.on_free_side(self.batch)
            assert module.feature_cache is not None
            for _ in range(2):
                features = module.feature_cache.features("val0", part)
                close(module._outputs(part | {"features": features}), expected)

    def units_per_layer(self) -> None:
        units = ParamGroups(units="layer")
        module = self.module(optimizer=lambda groups: AdamSLS(groups), param_groups=units)
        groups = units(module.model, module.new_parameter_names, module.module_order)
        held = [parameter for group in groups for parameter in group["params"]]
        trainable = [parameter for parameter in module.model.parameters() if parameter.requires_grad]
        assert {*map(id, held)} == {*map(id, trainable)}
        assert len(held) == len(trainable)
        assert {group["unit"] for group in groups} >= {"embeddings", "layer.0", "head"}
        train(module, [self.batch] * 2)
        assert self.outputs(module).isfinite().all()

    def gradual_unfreezing(self) -> None:
        module = self.module(optimizer=lambda groups: torch.optim.SGD(groups, lr=1e-2))
        train(module, [self.batch] * 3, GradualUnfreezing(every_n_steps=1))
        assert self.outputs(module).isfinite().all()

    def lora(self) -> None:
        module = self.lora_module()
        before = self.outputs(module)
        self.step(module)
        assert not torch.equal(self.outputs(module), before)

    def bottleneck(self) -> None:
        module = self.module(adapter=BottleneckConfig(size=2))
        before = self.outputs(module)
        self.step(module)
        assert not torch.equal(self.outputs(module), before)

    def merge(self) -> None:
        module = self.lora_module()
        self.step(module)
        adapted = self.outputs(module)
        assert module.adapted is not None
        close(module.adapted.merge().eval()(**self.inputs(module)).logits, adapted)

    def export(self) -> None:
        module = self.module()
        module.export(self.folder / "exported", tokenizer())
        reloaded = AutoModelForSequenceClassification.from_pretrained(self.folder / "exported")
        close(reloaded(**self.inputs(module)).logits, self.outputs(module))

    # Parts of the above

    def module(self, **arguments: Any) -> SequenceClassifier:
        torch.manual_seed(0)
        return SequenceClassifier(str(self.folder / "pretrained"), num_labels=3, **arguments)

    def lora_module(self) -> SequenceClassifier:
        targets = linear_in_layers(self.module().model)
        return self.module(adapter=LoraConfig(r=2, target_modules=targets), dropout=0.0)

    def step(self, module: SequenceClassifier) -> None:
        optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(2):
            module.train().compute_loss(module.prepare_batch(self.batch, "train")[0]).backward()
            optimizer.step()

    def inputs(self, module: SequenceClassifier) -> dict[str, Tensor]:
        names = ("input_ids", "attention_mask")
        return {name: tensor for name, tensor in module.padding.on_free_side(self.batch).items() if name in names}

    @torch.no_grad()
    def outputs(self, module: SequenceClassifier) -> Tensor:
        mode = module.training
        outputs = module.eval()(self.inputs(module))
        module.train(mode)
        return outputs


FEATURES = {
    "fit": "fit",
    "split_by_length": "split by length",
    "skip_padding": "skip padding",
    "cache_features": "cache features",
    "units_per_layer": "units per layer",
    "gradual_unfreezing": "gradual unfreezing",
    "lora": "LoRA",
    "merge": "merge",
    "bottleneck": "bottleneck",
    "export": "export",
}


def support(family: str, folder: Path) -> dict[str, str]:
    """Return, for each of ``FEATURES``, ``works`` or the line with which it is refused."""
    tried = Support(family, folder)
    found = {}
    for feature in FEATURES:
        try:
            getattr(tried, feature)()
            found[feature] = "works"
        except ModelError as error:
            found[feature] = str(error)
    return found


def linear_in_layers(model: nn.Module) -> list[str]:
    """Return the paths of the linear modules of a model's layers."""
    layers = [part for part in named_parts(model, module_order(model)) if part.kind == "layer"]
    owners = {name.rpartition(".")[0] for layer in layers for name, _ in layer.parameters}
    return sorted(path for path in owners if isinstance(model.get_submodule(path), nn.Linear | Conv1D))


def train(module: SequenceClassifier, batches: list, *callbacks: Any) -> None:
    """Fit a module on batches, once."""
    trainer = quiet_trainer(max_epochs=1, callbacks=list(callbacks))
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))


def close(found: Tensor, expected: Tensor) -> None:
    """Check that two logits are the same but for rounding."""
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * max(scale, 1e-2))


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of a hundred words."""
    words = {"[PAD]": PAD, "[END]": END} | {f"w{number}": number for number in range(3, VOCAB_SIZE)} | {"[UNK]": 1}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[UNK]")), pad_token="[PAD]", eos_token="[END]"
    )


@contextlib.contextmanager
def quiet() -> Any:
    """Context without the remarks of Lightning and transformers."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero")]
    levels, verbosity = [logger.level for logger in loggers], transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()


def page(found: dict[str, dict[str, str]]) -> str:
    """Return the page with a row per family and a numbered list of the reasons for which something is refused."""
    reasons: list[str] = []
    rows = []
    for family, outcomes in found.items():
        cells = []
        for feature in FEATURES:
            if outcomes[feature] != "works" and (reason := general(outcomes[feature])) not in reasons:
                reasons.append(reason)
            works = outcomes[feature] == "works"
            cells.append("works" if works else f"refused ({reasons.index(general(outcomes[feature])) + 1})")
        rows.append(f"| {family} | {' | '.join(cells)} |")
    head = ["| family | " + " | ".join(FEATURES.values()) + " |", "| --- |" + " --- |" * len(FEATURES)]
    numbered = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    unbuilt = [f"`{family}` is not tried: {why}." for family, why in UNBUILT.items()]
    title = "Refused, in one line before training:"
    return "\n".join([INTRODUCTION, *head, *rows, "", title, "", *numbered, "", *unbuilt, ""])


def general(refusal: str) -> str:
    """Return a refusal without what is particular to one class of models."""
    refusal = re.sub(r"\w+ForSequenceClassification", "model", refusal)
    refusal = re.sub(r" found in the layer of .*", "", refusal, flags=re.DOTALL)
    return re.sub(r" This might be caused .*", "", refusal, flags=re.DOTALL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.family_support", description=__doc__.partition("\n")[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"all, or some of {', '.join(FAMILIES)}")
    chosen = parser.parse_args().families
    if unknown := sorted({*chosen} - {*FAMILIES}):
        parser.error(f"no family {unknown[0]}; there are {', '.join(FAMILIES)}")
    outcomes = {}
    with quiet():
        for name in chosen or FAMILIES:
            with tempfile.TemporaryDirectory() as temporary:
                outcomes[name] = support(name, Path(temporary))
    print(page(outcomes), end="")
