"""Every family of models that transformers classifies texts with: what works, what is refused, and no third."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_modules.batches.padding import Padding
from lightning_modules.models.tiny_input import module_order, tiny_input
from optimizers import named_parts
from tests.families import FAMILIES, family_model
from tests.family_support import FEATURES, general, page, quiet, support

PAGE = (Path(__file__).parent.parent / "docs" / "compatibility.md").read_text(encoding="utf-8")
ROWS = {line.split(" | ")[0].removeprefix("| "): line for line in PAGE.splitlines() if line.startswith("| ")}
REASONS = [line.partition(". ")[2] for line in PAGE.splitlines() if line[:1].isdigit()]
# Of the families with which all works, those that people take most.
COMMON = [
    "bert",
    "deberta-v2",
    "distilbert",
    "electra",
    "gpt2",
    "llama",
    "modernbert",
    "mpnet",
    "qwen3",
    "roberta",
    "t5",
]
# Padding changes their logits on whichever side it is.
DEPEND_ON_PADDING = {"canine", "convbert", "fnet", "nystromformer", "reformer", "t5gemma", "t5gemma2", "yoso"}


def test_every_family_is_in_the_table() -> None:
    assert set(FAMILIES) <= set(ROWS)


def is_like_many_others(family: str) -> bool:
    return family not in COMMON and "refused" not in ROWS[family]


def test_the_common_families_are_families() -> None:
    assert set(COMMON) <= set(FAMILIES)


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=pytest.mark.all_families if is_like_many_others(name) else ()) for name in FAMILIES],
)
def test_a_family_works_as_the_table_says(family: str, tmp_path: Path) -> None:
    with quiet():
        found = support(family, tmp_path)
    for feature, cell in zip(FEATURES, ROWS[family].removesuffix(" |").split(" | ")[1:], strict=True):
        expected = "works" if cell == "works" else REASONS[int(cell.removeprefix("refused (").removesuffix(")")) - 1]
        assert general(found[feature]) == expected, feature
    if family not in DEPEND_ON_PADDING:
        assert found["split_by_length"] == "works"


def test_the_page_is_made_of_outcomes() -> None:
    refused = dict.fromkeys(FEATURES, "works") | {"lora": "adapter: a BertForSequenceClassification does not"}
    assert page({"bert": refused, "gpt2": dict.fromkeys(FEATURES, "works")}).splitlines()[-7:-2] == [
        "| gpt2 |" + " works |" * len(FEATURES),
        "",
        "Refused, in one line before training:",
        "",
        "1. adapter: a model does not",
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_and_head_follow_the_flow_of_the_computation(family: str) -> None:
    """Nothing of the embeddings and the layers runs after the head has begun, and every parameter is in one part."""
    model = family_model(family)
    order = module_order(model)
    parts = named_parts(model, order)
    held = [id(parameter) for part in parts for _, parameter in part.parameters]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    kind_of = {id(parameter): part.kind for part in parts for _, parameter in part.parameters}
    called = [(time, path) for time, path in enumerate(order)]
    kinds = [
        (time, kind_of[id(parameter)])
        for time, path in called
        for _, parameter in model.get_submodule(path).named_parameters(recurse=False)
        if parameter.requires_grad and not list(model.get_submodule(path).children())
    ]
    head = [time for time, kind in kinds if kind == "head"]
    assert head
    assert min(head) > max(time for time, kind in kinds if kind != "head")
    embeddings = [time for time, kind in kinds if kind == "embeddings"]
    assert min(embeddings) < min(time for time, kind in kinds if kind == "layer")
    assert [part.kind for part in parts][:2] == ["embeddings", "layer"]


@pytest.mark.parametrize(
    ("family", "free"),
    [
        ("bert", {"right"}),
        ("roberta", {"right"}),
        ("bart", {"right"}),
        ("gpt2", {"right"}),
        ("gpt_neo", {"right"}),
        ("gpt_bigcode", {"right"}),
        ("biogpt", {"right"}),
        ("openai-gpt", {"right"}),
        ("ctrl", {"right"}),
        ("xlnet", {"left"}),
        ("llama", {"right", "left"}),
        ("t5", {"right"}),
        *((family, set()) for family in sorted(DEPEND_ON_PADDING)),
    ],
)
def test_the_sides_on_which_padding_is_free(family: str, free: set[str]) -> None:
    """By hand: one text alone, and beside a longer one; what the probe says is what a batch shows."""
    model = family_model(family, seed=1).eval()
    text, longer = tiny_input(model.config, 5), tiny_input(model.config, 40)
    found = set()
    with torch.no_grad():
        alone = model(**text).logits
        for side in ("right", "left"):
            sides = (0, 35) if side == "right" else (35, 0)
            padded = {name: torch.nn.functional.pad(row, sides) for name, row in text.items()}
            beside = model(**{name: torch.cat([padded[name], longer[name]]) for name in text}).logits[:1]
            if float((beside - alone).abs().max()) < 1e-4 * float(alone.abs().max()):
                found.add(side)
    assert found == free
    padding = Padding(model)
    assert {side for side in ("right", "left") if padding.is_free(side)} == free
