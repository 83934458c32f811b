"""Linear layers by oneDNN: when, that numbers are float32's, and that nothing stays switched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from lightning_modules import linear_products
from lightning_modules.linear_products import fast_linear_layers, onednn_is_faster


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any processor, taken for one of AMD's with AVX-512."""
    monkeypatch.setattr(linear_products, "_processor", lambda: "vendor_id : AuthenticAMD")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    onednn_is_faster.cache_clear()
    yield
    onednn_is_faster.cache_clear()


def layers() -> nn.Module:
    """One layer that is large enough, and one that is not."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(512, 128), nn.Linear(128, 2))


@pytest.mark.usefixtures("processor")
def test_numbers_are_those_of_float32_and_nothing_stays_switched(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = layers(), torch.randn(2, 64, 512)
    calls: list[str] = []
    linear = nn.functional.linear

    def watched(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(torch.get_float32_matmul_precision())
        return linear(*arguments)

    with torch.no_grad():
        expected = model.double()(rows.double())
        model.float()
        monkeypatch.setattr(nn.functional, "linear", watched)
        with fast_linear_layers(model):
            found = model(rows)
    if not onednn_is_faster():
        pytest.skip("oneDNN rounds to bfloat16 here")
    assert calls[-2:] == ["medium", "highest"]
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.get_float32_matmul_precision() == "highest"
    assert not any("forward" in vars(each) for each in model.modules())


@pytest.mark.usefixtures("processor")
def test_it_is_left_where_gradients_are_needed_rows_are_few_or_numbers_are_no_float32() -> None:
    model, rows = layers(), torch.randn(64, 512)
    usual = model(rows)
    with fast_linear_layers(model):
        assert torch.equal(model(rows), usual)
    with torch.no_grad(), fast_linear_layers(model):
        assert torch.equal(model(rows[:32]), model(rows[:32]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model(rows).dtype == torch.bfloat16


@pytest.mark.usefixtures("processor")
def test_an_error_within_leaves_nothing_behind() -> None:
    model = layers()
    with torch.no_grad(), pytest.raises(RuntimeError), fast_linear_layers(model):
        model(torch.randn(64, 3))
    assert torch.get_float32_matmul_precision() == "highest"
    assert not any("forward" in vars(each) for each in model.modules())


def test_where_onednn_rounds_it_is_not_taken(processor: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with AMX: `medium` allows it."""
    monkeypatch.setattr(
        linear_products, "_switched", lambda one, other, _: (one.bfloat16() @ other.bfloat16().T).float()
    )
    assert not onednn_is_faster()


def test_other_processors_keep_torchs_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_products, "_processor", lambda: "vendor_id : GenuineIntel")
    onednn_is_faster.cache_clear()
    assert not onednn_is_faster()
    onednn_is_faster.cache_clear()
