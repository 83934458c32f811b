"""A cache on disk for the output of a frozen encoder, computed once per example."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub import constants
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_modules.batches.batch_rows import Batch, names_by_token
from lightning_modules.errors import ModelError
from lightning_modules.features.feature_layout import FeatureLayout, possible_layouts
from lightning_modules.features.frozen_encoder import Features, FrozenEncoder, outputs_of
from lightning_modules.features.vector_file import VectorFile
from optimizers.call_order import evaluating

# Number of rows on which the layout of the features is found out.
_PROBE_ROWS = 2
_TOKEN_INPUTS = ("input_ids", "token_type_ids")
# Rows that the encoder runs on at a time, however large the head's batches are.
_ROWS_AT_A_TIME = 64


def default_feature_cache_dir() -> Path:
    """Return the default folder for features: in Hugging Face's cache, beside downloaded models."""
    return Path(constants.HF_HOME) / "linetune" / "features"


class FeatureCache:
    """Keeps one vector per example on disk: everything that the head reads from the frozen encoder below it.

    What the head reads is found out by trying: one of the tensors that the constant modules (see
    :class:`~lightning_modules.features.frozen_encoder.FrozenEncoder`) return, at the first token, at the last token
    that is attended to, or as it is where it has no token dimension, gives the same logits with everything else
    replaced by zeros. BERT's pooler reads the last layer at ``[CLS]``, a decoder's head the last token.

    The vectors lie in files, one per split, which all processes on a node share. The name of a file
    depends on the frozen weights, the configuration, the precision, the versions of torch and transformers, and the
    data set's fingerprint where it has one. Each vector is stored with a 64-bit checksum of its example's tokens, which
    depend on text and tokenizer, and is used for an example of that checksum alone.

    The encoder runs on a few examples of similar length at a time, however large the head's batches are. Its output for
    an example depends on the padding of such a batch in the last bits.

    Args:
        encoder: Finds the constant modules of the model.
        model: The model.
        forward: Runs it on a batch and returns logits.
        folder: Where the files go. Default: :func:`default_feature_cache_dir`.

    Example::

        cache = FeatureCache(FrozenEncoder(model, logits_of), model, logits_of)
        features = cache.features("train", batch)  # runs the encoder where it has to
        with features.reused():
            logits_of(batch)  # runs the head alone
    """

    def __init__(
        self,
        encoder: FrozenEncoder,
        model: nn.Module,
        forward: Callable[[Batch], Tensor],
        folder: str | Path | None = None,
    ) -> None:
        self._encoder = encoder
        self._model = model
        self._forward = forward
        self._folder = Path(folder).expanduser() if folder is not None else default_feature_cache_dir()
        self._modules: list[nn.Module] | None = None
        self._layout: FeatureLayout | None = None
        self._name = ""
        self._files: dict[str, VectorFile] = {}

    def features(self, split: str, batch: Batch, fingerprint: str = "") -> Features:
        """Return the features of a batch, from disk if they are there.

        Args:
            split: Name of the split that the batch is from; ``idx`` numbers its examples.
            batch: The batch.
            fingerprint: Identifies the data, beyond the tokens themselves.

        Raises:
            ModelError: if nothing is frozen, the head reads more than one vector per example, the batch has no
                ``idx``, or the folder cannot be written.
        """
        if "idx" not in batch:
            raise ModelError("cache_features: the batches have no idx, the number of each example within its split")
        modules = self._encoder.constant_modules(batch)
        if modules != self._modules:
            if not modules:
                raise ModelError(
                    "cache_features: every output depends on trainable parameters, so there is nothing to keep; freeze "
                    "the encoder (trainable: head, or new) or leave cache_features off"
                )
            self._layout = self._find_layout(modules, batch)
            self._name = self._digest(modules)
            self._modules, self._files = modules, {}
        assert self._layout is not None
        key = f"{split}-{hashlib.sha256(f'{self._name}{fingerprint}'.encode()).hexdigest()[:20]}"
        if key not in self._files:
            self._files[key] = VectorFile(self._folder / f"{key}.features", self._layout.size)
        rows, checksums = batch["idx"].cpu().numpy(), _checksums(batch)
        vectors, missing = self._files[key].read(rows, checksums)
        if len(missing):
            vectors[missing] = self._compute(modules, batch, missing)
            self._files[key].write(rows[missing], checksums[missing], vectors[missing])
        return Features(modules, self._layout.outputs(torch.from_numpy(vectors).to(batch["idx"].device), batch))

    def _compute(self, modules: list[nn.Module], batch: Batch, missing: np.ndarray) -> np.ndarray:
        """Compute the vectors of some examples of a batch, few at a time, those of similar length together."""
        assert self._layout is not None
        mask = batch["attention_mask"]
        places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        lengths = (mask * places).amax(dim=1)
        wanted = torch.from_numpy(missing).to(mask.device)
        order = wanted[lengths[wanted].argsort()]
        vectors = np.empty((len(missing), self._layout.size), np.float32)
        by_token = names_by_token(batch)
        place_of = {int(row): place for place, row in enumerate(missing)}
        for chosen in order.split(_ROWS_AT_A_TIME):
            longest = int(lengths[chosen].max())
            few = {
                name: tensor[chosen, :longest] if name in by_token else tensor[chosen] for name, tensor in batch.items()
            }
            found = self._layout.vectors(self._run(modules, few), few).float().cpu().numpy()
            vectors[[place_of[row] for row in chosen.tolist()]] = found
        return vectors

    def _run(self, modules: list[nn.Module], batch: Batch) -> dict[nn.Module, Any]:
        """Return the outputs of the constant modules in a forward pass."""
        return {module: calls[-1] for module, calls in outputs_of(modules, self._forward, batch).items()}

    @torch.no_grad()
    def _find_layout(self, modules: list[nn.Module], batch: Batch) -> FeatureLayout:
        rows = {name: tensor[:_PROBE_ROWS] for name, tensor in batch.items()}
        with evaluating(self._model):
            templates = self._run(modules, rows)
            expected = self._forward(rows)
            for layout in possible_layouts(templates):
                try:
                    features = Features(modules, layout.outputs(layout.vectors(templates, rows), rows))
                    with features.reused():
                        logits = self._forward(rows)
                except (RuntimeError, IndexError):  # shapes that the head cannot take, or tokens first
                    continue
                if logits.shape == expected.shape and torch.allclose(logits, expected, rtol=1e-4, atol=1e-6):
                    return layout
        raise ModelError(
            f"cache_features: the trainable part of a {type(self._model).__name__} reads more than one vector per "
            "example; leave cache_features off"
        )

    def _digest(self, modules: list[nn.Module]) -> str:
        device = next(self._model.parameters()).device.type
        autocast = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "none"
        digest = hashlib.sha256(f"{torch.__version__} {transformers.__version__} {autocast} {self._layout}".encode())
        config = getattr(self._model, "config", None)
        # Dropout is off where features are computed.
        settings = {k: v for k, v in config.to_dict().items() if "drop" not in k} if config is not None else {}
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        names = {module: name for name, module in self._model.named_modules()}
        for module in modules:
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                digest.update(f"{names[module]}.{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def fingerprint_of(trainer: Trainer, split: str) -> str:
    """Return what identifies the data of a split: the fingerprint of its data set, empty where it has none.

    Args:
        trainer: A trainer that fits or validates.
        split: ``train``, or ``val0``, ``val1``, ….
    """
    loaders = trainer.train_dataloader if split == "train" else trainer.val_dataloaders
    loader = loaders[int(split.removeprefix("val"))] if isinstance(loaders, list) else loaders
    return getattr(getattr(loader, "dataset", None), "_fingerprint", "")


def _checksums(batch: Batch) -> np.ndarray:
    """Return a checksum of each example's tokens, independent of padding: a sum of products with random numbers."""
    mask = batch["attention_mask"].cpu()
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)
    total = torch.zeros(len(mask), dtype=torch.int64)
    for number, name in enumerate(_TOKEN_INPUTS):
        if name in batch:
            generator = torch.Generator().manual_seed(number)
            low = torch.iinfo(torch.int64).min
            factors = torch.empty(mask.shape[1], dtype=torch.int64).random_(low, None, generator=generator)
            # Integers wrap around, as they are meant to.
            total += ((batch[name].cpu() + 1) * factors[places] * mask).sum(dim=1)
    # Zero stands for an example that has not been met.
    return (total | 1).numpy()
