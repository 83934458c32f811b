"""Buffers that a model computes from its configuration keep their precision when it is put into half precision."""

from __future__ import annotations

from torch import Tensor, nn


def computed_buffers(module: nn.Module) -> dict[str, Tensor]:
    """Return the floating-point buffers that ``state_dict`` leaves out, by their names.

    Such are the frequencies of rotary positions: multiplied with a position of 2000 in bfloat16, they are off by whole
    turns. ``from_pretrained(dtype=torch.bfloat16)`` leaves them in float32; ``module.to(torch.bfloat16)``, which
    Lightning's ``bf16-true`` and ``16-true`` call, does not.
    """
    stored = module.state_dict().keys()
    buffers = module.named_buffers(remove_duplicate=False)  # each name is converted by itself
    return {name: buffer for name, buffer in buffers if buffer.is_floating_point() and name not in stored}


def restore_rounded(module: nn.Module, exact: dict[str, Tensor]) -> None:
    """Put back those buffers that a conversion has rounded, where the module is now.

    What the narrower type holds exactly stays in it: OpenAI's GPT multiplies scores by a mask of zeros and ones, in one
    type with them.

    Args:
        module: The module, after the conversion.
        exact: What :func:`computed_buffers` returned before it.
    """
    for name, buffer in exact.items():
        owner, _, own_name = name.rpartition(".")
        holder = module.get_submodule(owner)
        converted = getattr(holder, own_name)
        if converted.is_meta:
            continue
        if converted.dtype.itemsize < buffer.dtype.itemsize and not converted.to(buffer).equal(buffer):
            setattr(holder, own_name, buffer.to(converted.device))
