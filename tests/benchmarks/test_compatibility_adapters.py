"""The page of adapters: the rows of which libraries' behaviour makes more than one kind, made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.compatibility.adapters import ADAPTERS, row

PAGE = Path(__file__).parents[2] / "docs" / "compatibility_adapters.md"


# peft 0.21.2: PiSSA's fast SVD draws random numbers, so that reading the adapter back made other base weights; merging
# any adapter but LoRA failed where the head is more than one layer (RoBERTa, T5); prompts on decoders read the logits
# at the last token, padding or not; OLoRA transposes GPT-2's weights; prefix tuning asks for an argument
# of forward that transformers 5.24 calls otherwise.
@pytest.mark.parametrize("adapter", ["PiSSA, fast SVD", "OLoRA", "IA3", "HRA", "prompt tuning", "prefix tuning"])
def test_a_row_of_the_page_is_what_is_found(adapter):
    assert row(adapter) in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_page_has_every_adapter():
    text = PAGE.read_text(encoding="utf-8")
    assert [adapter for adapter in ADAPTERS if f"| {adapter} |" not in text] == []
