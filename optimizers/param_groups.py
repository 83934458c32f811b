"""Parameter groups of a model: units of a line search, weight decay, learning rates by layer."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from optimizers.checks import require
from optimizers.named_parts import Part, named_parts

_PROJECTIONS = {word: re.compile(rf"(^|[._])W?({word[0]}|{word})([._]|$)") for word in ("query", "key", "value")}
# Projections that hold several and do not say so word by word: Wqkv, kv_proj, GPT-2's c_attn, torch's in_proj_weight,
# the in_proj of DeBERTa's attention (and not of a state space model).
_FUSED = re.compile(r"qkv|c_attn|in_proj_(weight|bias)|(^|[._])kv([._]|$)|att\w*\.(\w+\.)*in_proj\.")
# Factors of peft's IA3 and BOFT, kept as one column or row. They leave the model alone where they are 1, so that a
# decay towards zero would take the pretrained model apart.
_FACTORS = re.compile(r"(^|\.)(ia3_l|boft_s)$")


@dataclass(frozen=True)
class ParamGroups:
    """A division of a model's trainable parameters into parameter groups, for any torch optimizer.

    Called with a model, it returns the groups: dicts with `params`, `name`, `unit` (what a line search per unit gives a
    step size of its own) and `new` (one flag per parameter: it did not come from the checkpoint;
    :class:`~optimizers.AdamWL2SP` decays those towards zero and the others towards their pretrained values).
    `weight_decay`, `anchor_decay` and `lr` are there where they differ from the optimizer's own, `lr_factor` where
    learning rates differ between parts (:func:`scale_learning_rates`). Biases and norms that do not decay are a second
    group of the same unit, `<name>.no_decay`.

    Args:
        units: What gets a step size of its own. `model`: everything together. `layer`: the embeddings, each layer, the
            head. A number n: the same parts from the bottom to the top, in n bundles of neighbours whose numbers of
            parts differ by one at most. `qkv`: each layer's `query`, `key`, `value` and `rest`, the embeddings, the
            head; a projection that holds several at once (ModernBERT, GPT-2) cannot be divided between groups and is
            one unit, `qkv`. `tensor`: each parameter tensor.
        weight_decay: Weight decay of all parameters that decay, 0 or more. None: the optimizer's own.
        anchor_decay: Decay of pretrained parameters towards their pretrained values in place of zero, 0 or more, for
            optimizers that have it: :class:`~optimizers.AdamWL2SP` and the line searches. None: the optimizer's own.
        decay_norm_and_bias: Whether biases, norms and other vectors decay as well.
        lr_decay: Layer-wise learning-rate decay, above 0: the learning rate of a part is `lr_decay` times that of the
            part above it, the head's is the optimizer's (ELECTRA, arXiv 2003.10555, uses 0.8 to 0.9; ULMFiT, arXiv
            1801.06146, 1 / 2.6).
        lr_factors: Factors on the optimizer's learning rate by part (`embeddings`, `layer.0`, …, `head`), 0 or more,
            in place of the powers of `lr_decay`.
        lrs: Learning rates by part, in place of the optimizer's.
        new_lr_factor: A further factor, above 0, on the learning rate of parameters that did not come from the
            checkpoint, such as a new head; nothing where all that trains is new. None: the optimizer's own, 1 for most.

    Raises:
        ValueError: A setting is out of range; the model lacks a part that is named, or all parameters that are named as
            new, or has fewer parts than bundles, or cannot be divided into named parts or into query, key and value
            where that is needed.

    Example::

        groups = ParamGroups(units="layer", weight_decay=0.01)(model, new_parameter_names={"classifier.weight"})
        optimizer = torch.optim.AdamW(groups, lr=2e-5)
    """

    units: Literal["model", "layer", "qkv", "tensor"] | int = "model"
    weight_decay: float | None = None
    anchor_decay: float | None = None
    decay_norm_and_bias: bool = False
    lr_decay: float = 1.0
    lr_factors: dict[str, float] | None = None
    lrs: dict[str, float] | None = None
    new_lr_factor: float | None = None

    def __post_init__(self) -> None:
        is_count = isinstance(self.units, int) and not isinstance(self.units, bool) and self.units >= 1
        is_division = is_count or self.units in ("model", "layer", "qkv", "tensor")
        require(is_division, "units", self.units, "model, layer, qkv, tensor or a number of bundles")
        for name, decay in (("weight_decay", self.weight_decay), ("anchor_decay", self.anchor_decay)):
            require(decay is None or decay >= 0, name, decay, "at least 0")
        require(self.lr_decay > 0, "lr_decay", self.lr_decay, "above 0")
        new_factor = self.new_lr_factor
        require(new_factor is None or new_factor > 0, "new_lr_factor", new_factor, "above 0, or None")
        for argument, table in (("lr_factors", self.lr_factors), ("lrs", self.lrs)):
            for part, value in (table or {}).items():
                require(value >= 0, f"{argument}: {part}", value, "at least 0")
        both = sorted(set(self.lr_factors or {}) & set(self.lrs or {}))
        if both:
            raise ValueError(f"lr_factors and lrs both have an entry for {', '.join(both)}; a part takes one of them")

    @property
    def sets_rates(self) -> bool:
        """Whether learning rates are said to differ, or not to, between parts or between new parameters and others."""
        return self._rates_differ or self.new_lr_factor is not None

    @property
    def _rates_differ(self) -> bool:
        return self.lr_decay != 1 or bool(self.lr_factors) or bool(self.lrs)

    def __call__(
        self, model: nn.Module, new_parameter_names: Collection[str] = (), order: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Return the groups of a model's trainable parameters, from the bottom to the top.

        Args:
            model: The model to train.
            new_parameter_names: Names of its parameters that did not come from a checkpoint.
            order: The order in which its modules run, of :func:`~optimizers.call_order`. Default: of registration.
        """
        units = self._units(model, order)
        rates = self._rates(model, order)
        new_names = _checked_names(model, new_parameter_names)
        decays = {"weight_decay": self.weight_decay, "anchor_decay": self.anchor_decay}
        decays = {name: decay for name, decay in decays.items() if decay is not None}
        vectors = set() if self.decay_norm_and_bias else _norm_and_bias_names(model)
        trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        factor = 1.0 if self.new_lr_factor is None else self.new_lr_factor
        # Where all that trains is new, there is nothing that it could learn faster than.
        is_divided = factor != 1 and len({name in new_names for name, _ in trainable}) == 2
        groups: dict[tuple[Any, ...], dict[str, Any]] = {}
        for name, parameter in trainable:
            part, rate = rates.get(name, ("", {}))
            is_new = is_divided and name in new_names
            key = (units[name], part, is_new, name in vectors)
            if key not in groups:
                groups[key] = {
                    "params": [],
                    "name": self._group_name(*key),
                    "unit": units[name],
                    "new": (),
                    **(_scaled(rate, factor if is_new else 1.0) if is_divided else rate),
                    **decays,
                    **({"weight_decay": 0.0, "anchor_decay": 0.0} if name in vectors else {}),
                }
            groups[key]["params"].append(parameter)
            groups[key]["new"] += (name in new_names,)
        if not groups:
            raise ValueError(f"no parameter trains in a {type(model).__name__}: all have requires_grad=False")
        places = {unit: index for index, unit in enumerate(dict.fromkeys(units.values()))}
        parts = {part: index for index, part in enumerate(dict.fromkeys(part for part, _ in rates.values()))}
        return [groups[key] for key in sorted(groups, key=lambda key: (places[key[0]], parts.get(key[1], 0), *key[2:]))]

    def _units(self, model: nn.Module, order: Sequence[str]) -> dict[str, str]:
        """Return the unit of every trainable parameter by the parameter's name, from the bottom to the top."""
        trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        if self.units == "model":
            return dict.fromkeys(trainable, "model")
        if self.units == "tensor":
            return {name: name for name in trainable}
        parts = named_parts(model, order)
        if self.units == "qkv":
            return _attention_units(parts)
        bundles = [[part] for part in parts] if self.units == "layer" else _bundles(parts, self.units)
        return {name: _bundle_name(bundle) for bundle in bundles for part in bundle for name, _ in part.parameters}

    def _rates(self, model: nn.Module, order: Sequence[str]) -> dict[str, tuple[str, dict[str, float]]]:
        """Return part and rate (a group's `lr` or `lr_factor`) of every trainable parameter, where rates differ."""
        if not self._rates_differ:
            return {}
        parts = named_parts(model, order)
        known = [part.name for part in parts]
        unknown = sorted({*(self.lr_factors or {}), *(self.lrs or {})} - set(known))
        if unknown:
            raise ValueError(f"no part {unknown[0]!r} trains in this model; its parts are {', '.join(known)}")
        rates = {}
        for depth, part in enumerate(reversed(parts)):
            if part.name in (self.lrs or {}):
                rate = {"lr": (self.lrs or {})[part.name]}
            else:
                rate = {"lr_factor": (self.lr_factors or {}).get(part.name, self.lr_decay**depth)}
            rates[part.name] = rate
        return {name: (part.name, rates[part.name]) for part in parts for name, _ in part.parameters}

    def _group_name(self, unit: str, part: str, is_new: bool, is_vector: bool) -> str:
        if self.units == "tensor":
            return unit
        # A unit of several parts whose rates differ is several groups, named after the parts.
        name = part if part and self.units not in ("layer", "qkv") else unit
        return f"{name}{'.new' if is_new else ''}{'.no_decay' if is_vector else ''}"


def _checked_names(model: nn.Module, new_parameter_names: Collection[str]) -> set[str]:
    """Return the names of new parameters; those of a part of the model would mark nothing as new, without a word."""
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if new_parameter_names and known.isdisjoint(new_parameter_names):
        raise ValueError(
            f"new_parameter_names: a {type(model).__name__} has no parameter {min(new_parameter_names)!r}; its "
            f"{len(known)} parameters are {', '.join(sorted(known)[:4])}, …"
        )
    return set(new_parameter_names)


def _scaled(rate: dict[str, float], factor: float) -> dict[str, float]:
    """Return a group's `lr` or `lr_factor` times a factor."""
    return {"lr": rate["lr"] * factor} if "lr" in rate else {"lr_factor": rate.get("lr_factor", 1.0) * factor}


def scale_learning_rates(optimizer: Optimizer) -> None:
    """Multiply the `lr` of every group by the group's `lr_factor`.

    Call it once, on a fresh optimizer, before a learning-rate schedule is made.

    An optimizer that has `lr_factor` among its defaults applies the factor itself and is left as it is.

    Args:
        optimizer: An optimizer over the groups of :class:`ParamGroups`.
    """
    if "lr_factor" in optimizer.defaults:
        return
    for group in optimizer.param_groups:
        factor = group.get("lr_factor", 1.0)
        if group.get("lr") is not None:  # transformers' Adafactor has None where it finds its rate itself
            group["lr"] = group["lr"] * factor
        elif factor != 1:
            raise ValueError(f"{type(optimizer).__name__} has no learning rate to scale by part: its groups keep no lr")


def _norm_and_bias_names(model: nn.Module) -> set[str]:
    """Return the names of biases, norms' parameters, adapters' factors, and all with fewer than two dimensions."""
    return {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim < 2
        or name.endswith("bias")
        or "norm" in type(module).__name__.lower()
        or _FACTORS.search(path)
    }


def _bundles(parts: list[Part], number: int) -> list[list[Part]]:
    if number > len(parts):
        raise ValueError(f"units: {number} bundles are more than the {len(parts)} parts of this model")
    bounds = [round(index * len(parts) / number) for index in range(number + 1)]
    return [parts[start:stop] for start, stop in pairwise(bounds)]


def _bundle_name(bundle: list[Part]) -> str:
    return bundle[0].name if len(bundle) == 1 else f"{bundle[0].name}-{bundle[-1].name}"


def _attention_units(parts: list[Part]) -> dict[str, str]:
    units = {}
    for part in parts:
        for name, _ in part.parameters:
            units[name] = f"{part.name}.{attention_projection(name)}" if part.kind == "layer" else part.name
    in_layers = [name for part in parts if part.kind == "layer" for name, _ in part.parameters]
    if all(units[name].endswith(".rest") for name in in_layers):
        shown = ", ".join(in_layers[:8]) + (", …" if len(in_layers) > 8 else "")
        raise ValueError(f"units: qkv is not possible: no query, key or value among the layers' parameters: {shown}")
    return units


def attention_projection(name: str) -> str:
    """Return the attention projection that a parameter belongs to, by its name.

    Args:
        name: The parameter's name in the model.

    Returns:
        `query`, `key`, `value`, `qkv` (several in one) or `rest`.
    """
    if _FUSED.search(name):
        return "qkv"
    found = [projection for projection, pattern in _PROJECTIONS.items() if pattern.search(name)]
    return "rest" if not found else found[0] if len(found) == 1 else "qkv"
