"""The benchmark of packing: its families are of the size that it says, and it prints what it measured."""

from __future__ import annotations

import pytest

from benchmarks import packing
from optimizers.named_parts import layer_modules


@pytest.mark.parametrize("family", packing.FAMILIES)
def test_families_have_the_width_depth_and_form_that_are_measured(family: str) -> None:
    model = packing.family_model(family, width=32, depth=3, heads=2, num_labels=5)
    layers = layer_modules(model)
    own_attention = family in ("mpnet", "deberta-v2")
    assert len(layers) == 3
    assert {32, 128} <= {size for layer in layers for each in layer.parameters() for size in each.shape}
    assert packing.packing_of(model).form == ("around attention" if own_attention else "layers")


def test_a_shape_is_measured_where_it_is_packed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "WIDTHS", ((64, 2),))
    packing.print_shapes(["bert"], repeats=1)
    output = capsys.readouterr().out
    assert "bert, 64 wide, 2 heads, 64 texts, short even: as it is" in output
    assert output.count("bert, 64 wide, 2 heads") >= 16
