"""Adapters of peft and bottleneck adapters: what trains, what is saved, what is merged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import XLNetConfig, XLNetForSequenceClassification

from lightning_modules import ModelError, SequenceClassifier
from lightning_modules.models.adapters import add_adapter
from lightning_modules.models.bottleneck_adapter import BottleneckConfig
from optimizers import named_parts
from tests.architectures import ARCHITECTURES, tiny_model
from tests.tiny_models import TinyData, save_tiny_bert

INPUTS = {"input_ids": torch.arange(3, 15).view(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
QUERY = {
    "bert": "query",
    "roberta": "query",
    "distilbert": "q_lin",
    "albert": "query",
    "deberta-v2": "query_proj",
    "modernbert": "Wqkv",
    "gpt2": "c_attn",
}


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(**INPUTS).logits


def new_head(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters() if "classifier" in name or name.startswith("score")]


def trainable(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def train_a_little(model: nn.Module) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(**INPUTS).logits, torch.tensor([0, 1])).backward()
        optimizer.step()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "config",
    [
        BottleneckConfig(placement="houlsby", size=4),
        BottleneckConfig(placement="pfeiffer", size=4, activation="relu"),
        "lora",
    ],
    ids=["houlsby", "pfeiffer", "lora"],
)
def test_adapter_and_new_head_train_and_nothing_else(architecture: str, config: Any) -> None:
    model = tiny_model(architecture)
    before, new = logits(model), new_head(model)
    frozen = {name: parameter for name, parameter in model.named_parameters() if name not in new}
    values = {name: parameter.detach().clone() for name, parameter in frozen.items()}
    if config == "lora":
        config = peft.LoraConfig(r=2, target_modules=[QUERY[architecture]])
    adapted = add_adapter(model, config, new)

    torch.testing.assert_close(logits(adapted.model), before, atol=1e-4, rtol=1e-4)
    assert sorted(trainable(adapted.model)) == sorted(set(adapted.new_parameter_names) & set(trainable(adapted.model)))
    assert {part.kind for part in named_parts(adapted.model)} == {"layer", "head"}
    train_a_little(adapted.model.train())
    assert not torch.equal(logits(adapted.model), before)
    assert all(torch.equal(frozen[name], value) for name, value in values.items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bottlenecks_sit_behind_the_sub_layers(architecture: str) -> None:
    layers = 1 if architecture == "albert" else 2
    houlsby, pfeiffer = (
        {
            name.split(".adapter.")[0]
            for name in add_adapter(tiny_model(architecture), config, ["x"]).new_parameter_names[1:]
        }
        for config in (BottleneckConfig("houlsby", 4), BottleneckConfig("pfeiffer", 4))
    )
    assert len(houlsby) == 2 * layers
    assert len(pfeiffer) == layers
    assert pfeiffer < houlsby
    assert all("attn" in path or "attention" in path for path in houlsby - pfeiffer)
    assert not any("attn" in path or "attention" in path for path in pfeiffer)


def test_the_bottleneck_is_the_published_formula() -> None:
    model = tiny_model("bert").eval()
    dense = model.bert.encoder.layer[0].output.dense
    hidden = torch.randn(2, 32)
    plain = dense(hidden)
    add_adapter(model, BottleneckConfig("pfeiffer", 3, activation="relu", init_std=0.5))
    down, up = dense.adapter.down, dense.adapter.up
    with torch.no_grad():
        down.bias.fill_(0.1)
        up.bias.fill_(-0.2)
    expected = plain + (plain @ down.weight.T + 0.1).clamp(min=0) @ up.weight.T - 0.2
    torch.testing.assert_close(dense(hidden), expected)
    assert down.weight.shape == (3, 16)
    assert 0 < down.weight.abs().max() <= 1.0  # cut off at two standard deviations


def test_norms_of_the_layers_train_if_asked_for() -> None:
    model = tiny_model("bert")
    names = set(trainable(add_adapter(model, BottleneckConfig(train_norms=True), new_head(model)).model))
    norms = {name for name, _ in model.named_parameters() if "LayerNorm" in name and ".layer." in name}
    assert norms < names
    assert "bert.embeddings.LayerNorm.weight" not in names


def test_without_anything_new_the_whole_head_trains() -> None:
    model = tiny_model("bert")
    adapted = add_adapter(model, BottleneckConfig(size=2))
    assert {name for name in trainable(adapted.model) if ".adapter." not in name} == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    }
    assert all(".adapter." in name for name in adapted.new_parameter_names)


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=2, target_modules=["query", "value"]),
        peft.IA3Config(
            target_modules=["key", "value", "intermediate.dense"], feedforward_modules=["intermediate.dense"]
        ),
        BottleneckConfig(placement="houlsby", size=4, train_norms=True),
    ],
    ids=["lora", "ia3", "houlsby"],
)
def test_a_saved_adapter_restores_the_predictions(config: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = tiny_model("bert")
    weights = {name: value.clone() for name, value in base.state_dict().items()}
    adapted = add_adapter(base, config, new_head(base))
    train_a_little(adapted.model)
    adapted.save(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < 20_000

    again = tiny_model("bert")
    again.load_state_dict(weights)
    with torch.no_grad():
        again.classifier.weight.add_(1.0)  # the head comes from the adapter's folder
    restored = add_adapter(again, str(tmp_path / "adapter"), new_head(again))
    torch.testing.assert_close(logits(restored.model), logits(adapted.model))
    assert sorted(trainable(restored.model)) == sorted(trainable(adapted.model))
    assert restored.new_parameter_names == ()


def test_peft_itself_reads_what_was_saved(tmp_path: Path) -> None:
    base = tiny_model("bert")
    weights = {name: value.clone() for name, value in base.state_dict().items()}
    adapted = add_adapter(base, peft.LoraConfig(r=2, target_modules=["query"]), new_head(base))
    train_a_little(adapted.model)
    adapted.save(tmp_path)
    again = tiny_model("bert")
    again.load_state_dict(weights)
    theirs = peft.PeftModelForSequenceClassification.from_pretrained(again, str(tmp_path))
    torch.testing.assert_close(logits(theirs), logits(adapted.model))


def test_merging_gives_the_plain_architecture_with_the_same_predictions() -> None:
    base = tiny_model("bert")
    names = [name for name, _ in base.named_parameters()]
    adapted = add_adapter(base, peft.LoraConfig(r=2, target_modules=["query"]), new_head(base))
    train_a_little(adapted.model)
    expected = logits(adapted.model)
    merged = adapted.merge()
    assert [name for name, _ in merged.named_parameters()] == names
    torch.testing.assert_close(logits(merged), expected)


def test_adapters_that_cannot_be_merged_say_so() -> None:
    with pytest.raises(ModelError, match="BottleneckConfig adapter cannot be merged"):
        add_adapter(tiny_model("bert"), BottleneckConfig()).merge()
    prompts = add_adapter(tiny_model("bert"), peft.PromptTuningConfig(num_virtual_tokens=2))
    with pytest.raises(ModelError, match="PROMPT_TUNING adapter cannot be merged"):
        prompts.merge()


def test_input_that_fits_nothing_is_refused_in_one_line(tmp_path: Path) -> None:
    cases: list[tuple[Any, str]] = [
        (str(tmp_path), "no adapter_config.json in"),
        (
            peft.LoraConfig(target_modules=["nowhere"]),
            "No modules were targeted .* are called classifier, dense, key, query, value",
        ),
        (nn.Linear(1, 1), "Linear is neither a configuration of peft nor a BottleneckConfig"),
    ]
    for adapter, message in cases:
        with pytest.raises(ModelError, match=message) as error:
            add_adapter(tiny_model("bert"), adapter)
        assert "\n" not in str(error.value)
    xlnet = XLNetForSequenceClassification(XLNetConfig(vocab_size=64, d_model=16, n_layer=1, n_head=2, d_inner=32))
    with pytest.raises(ModelError, match="cannot place pfeiffer adapters"):
        add_adapter(xlnet, BottleneckConfig())


def test_a_bottleneck_of_another_model_is_refused(tmp_path: Path) -> None:
    adapted = add_adapter(tiny_model("bert"), BottleneckConfig(size=4))
    adapted.save(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["size"] == 4
    with pytest.raises(
        ModelError, match=r"adapter is of another model: .*distilbert|adapter is of another model: bert"
    ):
        add_adapter(tiny_model("distilbert"), str(tmp_path))


@pytest.mark.parametrize(
    "lost",
    ["classifier.bias", "bert.encoder.layer.0.output.LayerNorm.weight", ".layer.1.output.dense.adapter.up.weight"],
)
def test_a_bottleneck_without_all_its_parameters_is_refused(lost: str, tmp_path: Path) -> None:
    model = tiny_model("bert")
    add_adapter(model, BottleneckConfig(size=4, train_norms=True), new_head(model)).save(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file(
        {name: w for name, w in weights.items() if not name.endswith(lost)}, tmp_path / "adapter_model.safetensors"
    )
    again = tiny_model("bert")
    with pytest.raises(ModelError, match=rf"incomplete: 1 of \d+ parameters .* first is \S*{lost}") as error:
        add_adapter(again, str(tmp_path), new_head(again))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "parallel"}, "placement: 'parallel' is not allowed; houlsby or pfeiffer"),
        ({"size": 0}, "size: 0 is not allowed"),
        ({"activation": "bend"}, "activation: 'bend' is not allowed"),
        ({"init_std": -1.0}, "init_std: -1.0 is not allowed"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BottleneckConfig(**options)


def test_everything_but_pefts_own_adapters_works_without_peft(tmp_path: Path) -> None:
    """In a process where importing peft fails, as where it is not installed."""
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    script = f"""
import sys
sys.modules["peft"] = None
from lightning_modules import BottleneckConfig, ModelError
from lightning_modules.models.adapters import add_adapter
from tests.architectures import tiny_model
add_adapter(tiny_model("bert"), BottleneckConfig(size=2))
try:
    add_adapter(tiny_model("bert"), {str(tmp_path / "saved")!r})
except ModelError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert 'needs the extra "peft": pip install "linetune[peft]"' in done.stdout


def test_a_start_out_of_the_base_weights_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    """peft 0.21.2: each PiSSA by fast SVD starts elsewhere. A run that goes on does so from the checkpoint's start."""
    folder = str(save_tiny_bert(tmp_path / "model"))
    config = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights="pissa_niter_1")
    options: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    torch.manual_seed(1)
    first = SequenceClassifier(folder, adapter=config)
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, limit_val_batches=0, **options)
    trainer.fit(first, TinyData(16, 8))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    torch.manual_seed(2)
    again = SequenceClassifier(folder, adapter=config)
    Trainer(**options).validate(again, TinyData(16, 8), ckpt_path=str(tmp_path / "run.ckpt"), verbose=False)
    assert again.adapted is not None
    again.adapted.save(tmp_path / "adapter")
    read = SequenceClassifier(folder, adapter=str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(read.model), logits(first.model), rtol=1e-6, atol=1e-6)


def test_adalora_is_refused_before_training(tmp_path: Path) -> None:
    folder = str(save_tiny_bert(tmp_path / "model"))
    module = SequenceClassifier(folder, adapter=peft.AdaLoraConfig(target_modules=["query"], total_step=10))
    with pytest.raises(ModelError, match="adapter: AdaLoraConfig prunes its ranks within the training loop"):
        Trainer(logger=False, accelerator="cpu").fit(module, TinyData(16, 8))


@pytest.mark.parametrize("orthogonal", [False, True])
def test_hra_that_starts_elsewhere_is_refused_before_training(tmp_path: Path, orthogonal: bool) -> None:
    folder = str(save_tiny_bert(tmp_path / "model"))
    config = peft.HRAConfig(target_modules=["value"], r=4, apply_GS=orthogonal)
    torch.manual_seed(0)
    original = SequenceClassifier(folder)
    torch.manual_seed(0)
    module = SequenceClassifier(folder, adapter=config)
    starts_there = torch.allclose(logits(module.model), logits(original.model), atol=1e-6)
    assert starts_there is not orthogonal
    trainer = Trainer(max_steps=1, logger=False, accelerator="cpu", enable_checkpointing=False, limit_val_batches=0)
    if orthogonal:
        with pytest.raises(ModelError, match="adapter: HRAConfig with apply_GS=True begins as another model"):
            trainer.fit(module, TinyData(16, 8))
    else:
        trainer.fit(module, TinyData(16, 8))
        assert trainer.global_step == 1
