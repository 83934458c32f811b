"""Linear layers of an evaluation by oneDNN, on processors for which torch's own choice of a library is slow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

# Below, calls and not products take the time.
_FEWEST_ROWS, _FEWEST_WEIGHTS = 64, 128 * 128


@contextmanager
def fast_linear_layers(model: nn.Module) -> Iterator[None]:
    """Context without gradients in which linear layers of float32 on a CPU take the faster library for their products.

    torch 2.13 computes products of float32 by MKL, which leaves AVX-512 unused on processors that are not Intel's:
    oneDNN is twice as fast there. torch has one switch between them, `set_float32_matmul_precision`, by which it also
    lets oneDNN round to bfloat16. Where oneDNN makes use of that (on processors with AMX), nothing is changed: results
    are float32's, to rounding. Only linear layers are switched: attention's small products take longer that way.

    Args:
        model: What runs within.
    """
    linear = [each for each in model.modules() if type(each) is nn.Linear and "forward" not in vars(each)]
    linear = [each for each in linear if each.weight.device.type == "cpu" and each.weight.numel() >= _FEWEST_WEIGHTS]
    if not linear or torch.is_grad_enabled() or not onednn_is_faster():
        yield
        return
    for module in linear:
        module.forward = partial(_by_onednn, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in linear:
            del module.forward


@cache
def onednn_is_faster() -> bool:
    """Return whether products of float32 matrices are faster by oneDNN on this processor, and as exact."""
    is_other = "AuthenticAMD" in _processor() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    if not (is_other and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(128, 512, generator=generator) for _ in range(2))
    exact = one.double() @ other.double().T
    usual = (nn.functional.linear(one, other) - exact).abs().max()
    try:
        switched = (_switched(one, other, None) - exact).abs().max()
    except RuntimeError:  # the user has chosen a precision in torch's newer way, which does not go with this one
        return False
    return bool(switched <= 4 * usual)


def _by_onednn(module: nn.Linear, rows: Tensor) -> Tensor:
    is_large = rows.dtype == module.weight.dtype == torch.float32 and rows.numel() >= _FEWEST_ROWS * rows.shape[-1]
    if not is_large or torch.is_autocast_enabled("cpu"):
        return nn.functional.linear(rows, module.weight, module.bias)
    return _switched(rows, module.weight, module.bias)


def _switched(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return nn.functional.linear(rows, weight, bias)
    finally:
        torch.set_float32_matmul_precision(before)


def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
