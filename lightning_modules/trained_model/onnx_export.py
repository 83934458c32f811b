"""A classifier as an ONNX file, for batches of any size and length."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_modules.errors import ModelError, first_line

# A file of protobuf holds less than 2 GiB; torch puts weights into a second file unless told otherwise.
_MOST_BYTES = 1_900_000_000


class _Logits(nn.Module):
    """Takes a model's inputs in a fixed order and returns its logits alone."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def write_onnx(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    """Write a model as an ONNX file: the tokenizer's inputs, of any batch and length, and the output ``logits``.

    Args:
        model: A sequence classifier in eval mode, on the CPU.
        tokenizer: Its tokenizer, which tells the inputs.
        file: Where to write; weights beyond 1.9 GB go to a file beside it, whose name is this one's with ``.data``.

    Raises:
        ModelError: if the extra ``onnx`` is not installed, or torch cannot export this architecture.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError('onnx: needs the extra "onnx": pip install "linetune[onnx]"') from error
    taken = inspect.signature(model.forward).parameters
    names = [name for name in tokenizer.model_input_names if name in taken]
    # Sizes that differ and are not 1, which torch would take for constants.
    example = torch.arange(3, 3 + 2 * 7).view(2, 7) % min(model.config.vocab_size, 17)
    fill = {"input_ids": example, "attention_mask": torch.ones_like(example)}
    inputs = tuple(fill.get(name, torch.zeros_like(example)) for name in names)
    axes = {0: Dim("batch"), 1: Dim("length")}
    try:
        with _quiet_exporter():
            torch.onnx.export(
                _Logits(model, names).eval(),
                inputs,
                str(file),
                input_names=names,
                output_names=["logits"],
                dynamic_shapes=(tuple(axes for _ in names),),
                dynamo=True,
                verbose=False,
                external_data=_bytes_of(model) > _MOST_BYTES,
            )
    except Exception as error:
        # torch's exporter raises errors of many kinds for what it cannot express.
        raise ModelError(
            f"onnx: torch cannot export {type(model).__name__}: {type(error).__name__}: {first_line(error)}"
        ) from error


def _bytes_of(model: nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's progress lines and its warnings about what it does by design."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
