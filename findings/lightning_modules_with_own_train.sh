#!/usr/bin/env bash
# lightning 2.6.6: after a validation the Trainer does not call `train()`, as a loop in torch does; it sets the attribute `training` of every
# module to what it was. What a module does in a `train` of its own is left out, and nothing is said. transformers' LeViT and its
# kin in timm keep attention biases from their first evaluation until `train()` is called: every later validation has the biases of the first one,
# and so has the choice of the best checkpoint. loralib's layers merge LoRA into the weights in `eval()` and take it out in `train()`:
# from the sanity check on LoRA is not trained, and the head alone is. With `on_validation_model_train` overridden to call
# `self.train()` both are right. Asked for other modules in 2024 (Lightning-AI/pytorch-lightning issue 20177).
# Seen, a LeViT of three stages: a last validation loss of 0.149, where the same weights in a new model have 0.130, and with the hook 0.130;
# a linear layer with loralib and a head, ten epochs: LoRA's B has moved by 0, and by 1.6 with the hook.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "lightning==2.6.6" "transformers==5.24.0" \
    "loralib==0.1.2" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import copy
import logging

import loralib
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import LevitConfig, LevitForImageClassification

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Classifier(LightningModule):
    def __init__(self, model, rate):
        super().__init__()
        self.model, self.rate = model, rate

    def loss(self, batch):
        outputs = self.model(batch[0])
        return nn.functional.cross_entropy(getattr(outputs, "logits", outputs), batch[1])

    def training_step(self, batch):
        return self.loss(batch)

    def validation_step(self, batch):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=self.rate)


class CallsTrain(Classifier):
    def on_validation_model_train(self):
        self.train()


def fit(kind, model, training, validation, rate):
    """Return the model after ten epochs and the last validation loss."""
    loaders = DataLoader(training, batch_size=32), DataLoader(validation, batch_size=128)
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=10, accelerator="cpu", **options)
    module = kind(copy.deepcopy(model), rate)
    trainer.fit(module, *loaders)
    return module, trainer.callback_metrics["val_loss"].item()


def pairs_of_squares(seed):
    """Return 128 noisy images with two bright squares that are neighbours (class 1) or lie across from each other (class 0)."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(128, 3, 64, 64, generator=generator), torch.arange(128) % 2
    for image, label in zip(images, labels):
        row, column = (16 * torch.randint(0, 2, (2,), generator=generator)).tolist()
        image[:, row : row + 16, column : column + 16] += 1
        row, column = (row, column + 16) if label else (row + 32, column + 32)
        image[:, row : row + 16, column : column + 16] += 1
    return TensorDataset(images, labels)


torch.manual_seed(0)
stages = {"hidden_sizes": [16, 32, 48], "num_attention_heads": [2] * 3, "key_dim": [8] * 3, "depths": [1] * 3}
config = LevitConfig(image_size=64, **stages, attention_ratio=[2] * 3, mlp_ratio=[2] * 3, num_labels=2)
config.down_ops = [["Subsample", 8, 2, 4, 2, 2], ["Subsample", 8, 4, 4, 2, 2]]
levit = LevitForImageClassification(config)
training, validation = pairs_of_squares(1), pairs_of_squares(2)
losses = {}
for kind in (Classifier, CallsTrain):
    module, validated = fit(kind, levit, training, validation, 3e-2)
    fresh = LevitForImageClassification(config).eval()
    fresh.load_state_dict(module.model.state_dict())
    with torch.no_grad():
        losses[kind] = validated, Classifier(fresh, 0).loss(validation.tensors).item()
    print(f"LeViT, {kind.__name__}: last validation {validated:.3f}, the same weights in a new model {losses[kind][1]:.3f}")

inputs = torch.randn(256, 8)
rows = TensorDataset(inputs, (inputs.square().sum(1) > 7).long())
layers = nn.Sequential(loralib.Linear(8, 32, r=4), nn.Tanh(), nn.Linear(32, 2))
loralib.mark_only_lora_as_trainable(layers)
layers[2].requires_grad_(True)
moved = {}
for kind in (Classifier, CallsTrain):
    module, validated = fit(kind, layers, rows, rows, 1e-2)
    moved[kind] = (module.model[0].lora_B - layers[0].lora_B).norm().item(), (module.model[2].weight - layers[2].weight).norm().item()
    print(f"loralib, {kind.__name__}: LoRA's B has moved by {moved[kind][0]:.2f}, the head by {moved[kind][1]:.2f}")

assert abs(losses[CallsTrain][0] - losses[CallsTrain][1]) < 1e-4, "the setting has changed"
assert moved[CallsTrain][0] > 0.5 and min(weight for _, weight in moved.values()) > 0.2, "the setting has changed"
assert abs(losses[Classifier][0] - losses[Classifier][1]) > 0.005, "the behaviour has changed"
assert moved[Classifier][0] == 0, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
