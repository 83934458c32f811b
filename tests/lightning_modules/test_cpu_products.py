"""CpuProducts: on which processors products take oneDNN, that they are float32's, and that nothing stays switched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lightning_modules import ClosureModule, SequenceClassifier
from lightning_modules.models import cpu_products
from lightning_modules.models.cpu_products import (
    by_small_products,
    onednn_is_faster,
    put_torchs_own_back,
    small_products,
)
from lightning_modules.models.tiny_input import padded_texts
from tests.quiet_trainer import quiet_trainer
from tests.tiny_models import save_tiny_bert

AMD = "vendor_id : AuthenticAMD\nflags : avx512f avx512_bf16"


def become(monkeypatch: pytest.MonkeyPatch, processor: str, capability: str = "AVX512") -> None:
    monkeypatch.setattr(cpu_products, "_processor", lambda: processor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    # Tests may run on a processor with AMX, where oneDNN does round.
    monkeypatch.setattr(cpu_products, "_onednn_is_exact", lambda: True)
    onednn_is_faster.cache_clear()


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    onednn_is_faster.cache_clear()
    yield
    onednn_is_faster.cache_clear()
    put_torchs_own_back()


class Watched(ClosureModule):
    """Notes the precision in its steps."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__(optimizer=torch.optim.SGD)
        self.layer = nn.Linear(4, 2)
        self.fails = fails
        self.seen: set[str] = set()

    def compute_loss(self, batch: Any) -> Any:
        self.seen.add(torch.get_float32_matmul_precision())
        if self.fails:
            raise ArithmeticError
        return self.layer(batch).square().mean()


def run(module: ClosureModule, folder: Path, way: str = "fit") -> None:
    trainer = quiet_trainer(max_epochs=1, default_root_dir=folder)
    getattr(trainer, way)(module, DataLoader(torch.ones(4, 4)))


def settings() -> tuple[str, str, str]:
    return (
        torch.get_float32_matmul_precision(),
        torch.backends.mkldnn.matmul.fp32_precision,
        torch.backends.cuda.matmul.fp32_precision,
    )


@pytest.mark.parametrize("way", ["fit", "validate"])
def test_a_run_is_switched_and_torchs_own_choice_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    become(monkeypatch, AMD)
    before = settings()
    for _ in range(2):
        module = Watched()
        run(module, tmp_path, way)
        assert module.seen == {"medium"}
        assert settings() == before
    with pytest.raises(ArithmeticError):
        run(Watched(fails=True), tmp_path, way)
    assert settings() == before


def test_small_products_within_a_run_are_torchs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class WithSmall(Watched):
        def compute_loss(self, batch: Any) -> Any:
            with small_products():
                super().compute_loss(batch)
            self.seen_after = torch.get_float32_matmul_precision()
            return self.layer(batch).square().mean()

    become(monkeypatch, AMD)
    module = WithSmall()
    run(module, tmp_path)
    assert module.seen == {"highest"}
    assert module.seen_after == "medium"
    # Outside of a run, what the user has set is in force.
    torch.set_float32_matmul_precision("high")
    with small_products():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize("packs", [False, True])
def test_attention_stays_with_torchs_own_choice_in_both_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packs: bool
) -> None:
    """torch 2.13: oneDNN takes several times as long as MKL for what its kernel for attention multiplies."""
    seen: dict[str, set[str]] = {"attention": set(), "its gradient": set(), "gradient before it": set()}

    def note(name: str, *_: Any) -> None:
        seen[name].add(torch.get_float32_matmul_precision())

    def noting(module: nn.Module, query: Any, *args: Any, **options: Any) -> Any:
        note("attention")
        if query.requires_grad:
            query.register_hook(partial(note, "its gradient"))
        return sdpa_attention_forward(module, query, *args, **options)

    become(monkeypatch, AMD)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", noting)
    module = SequenceClassifier(
        str(save_tiny_bert(tmp_path / "model")), skip_padding=packs, optimizer=torch.optim.SGD, dropout=0.0
    )
    layers = module.model.get_submodule("bert.encoder.layer")
    for layer in layers:
        layer.attention.self.query.weight.register_hook(partial(note, "gradient before it"))
    batch = padded_texts(module.model, (3, 9, 5), 9, "right") | {"labels": torch.tensor([0, 1, 0])}
    trainer = Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, default_root_dir=tmp_path
    )
    trainer.fit(module, DataLoader([batch, batch], batch_size=None))
    assert seen == {"attention": {"highest"}, "its gradient": {"highest"}, "gradient before it": {"medium"}}
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is noting
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("processor", "capability"),
    [(AMD.replace("AuthenticAMD", "GenuineIntel"), "AVX512"), (f"{AMD} amx_bf16", "AVX512"), (AMD, "AVX2")],
)
def test_other_processors_keep_torchs_own_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: str, capability: str
) -> None:
    become(monkeypatch, processor, capability)
    module = Watched()
    run(module, tmp_path)
    assert module.seen == {"highest"}


@pytest.mark.parametrize("in_the_newer_way", [False, True])
def test_a_precision_that_the_user_has_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_the_newer_way: bool
) -> None:
    become(monkeypatch, AMD)
    if in_the_newer_way:
        torch.backends.mkldnn.matmul.fp32_precision = "ieee"
    else:
        torch.set_float32_matmul_precision("highest")
    module = Watched()
    run(module, tmp_path)
    assert module.seen == {"highest"}
    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    # The next run in the process is switched once nobody has set one.
    put_torchs_own_back()
    run(module, tmp_path)
    assert module.seen == {"highest", "medium"}


@pytest.mark.parametrize("in_the_newer_way", [False, True])
def test_a_precision_that_the_user_sets_within_a_run_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_the_newer_way: bool
) -> None:
    class Sets(nn.Linear):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            if in_the_newer_way:
                torch.backends.mkldnn.matmul.fp32_precision = "ieee"
            else:
                torch.set_float32_matmul_precision("high")
            with small_products():
                return super().forward(rows)

    become(monkeypatch, AMD)
    module = Watched()
    module.layer = Sets(4, 2)
    monkeypatch.setattr(module, "compute_loss", lambda batch: module.layer(batch).square().mean())
    run(module, tmp_path)
    assert torch.backends.mkldnn.matmul.fp32_precision == ("ieee" if in_the_newer_way else "tf32")


def test_a_precision_of_cuda_alone_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.13: once it is set for one library, to ask for that of all libraries is an error."""
    become(monkeypatch, AMD)
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    module = Watched()
    monkeypatch.setattr(module, "compute_loss", lambda batch: module.layer(batch).square().mean())
    run(module, tmp_path)
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"


def test_runs_in_two_threads_are_switched_until_the_last_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Waiting(Watched):
        def __init__(self, wait: Callable[[], Any]) -> None:
            super().__init__()
            self.wait = wait

        def compute_loss(self, batch: Any) -> Any:
            if not self.seen:
                self.wait()
            return super().compute_loss(batch)

    become(monkeypatch, AMD)
    before = settings()
    first_runs, second_runs = threading.Event(), threading.Event()
    first = Waiting(lambda: (first_runs.set(), second_runs.wait(60)))
    thread = threading.Thread(target=run, args=(first, tmp_path))
    second = Waiting(lambda: (second_runs.set(), thread.join(60)))
    thread.start()
    assert first_runs.wait(60)
    run(second, tmp_path)
    assert not thread.is_alive()
    assert first.seen == second.seen == {"medium"}
    assert settings() == before


class Interrupted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise ArithmeticError


def test_a_run_that_ends_within_the_backward_pass_of_attention_leaves_torchs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Attends(Watched):
        def compute_loss(self, batch: Any) -> Any:
            rows = self.layer(batch)
            attend = by_small_products(lambda _, query, *__: (Interrupted.apply(query), None))
            return attend(self, rows, rows, rows, None)[0].square().mean()

    become(monkeypatch, AMD)
    before = settings()
    with pytest.raises(ArithmeticError):
        run(Attends(), tmp_path)
    assert settings() == before


def test_where_products_are_rounded_they_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    is_exact = cpu_products._onednn_is_exact
    become(monkeypatch, AMD)
    monkeypatch.setattr(cpu_products, "_onednn_is_exact", is_exact)
    linear = nn.functional.linear

    def rounded(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        is_medium = torch.get_float32_matmul_precision() == "medium"
        return linear(one.bfloat16(), other.bfloat16()).float() if is_medium else linear(one, other)

    monkeypatch.setattr(nn.functional, "linear", rounded)
    assert not onednn_is_faster()


def test_numbers_are_float32s_on_this_processor() -> None:
    """torch 2.13: oneDNN's products under "medium" are as exact as MKL's on AVX-512 without AMX, in both directions."""
    if not onednn_is_faster():
        pytest.skip("this processor keeps torch's own choice")
    torch.manual_seed(0)
    layer, rows = nn.Linear(384, 1536), torch.randn(700, 384)
    twin = nn.Linear(384, 1536).double()
    twin.load_state_dict(layer.state_dict())
    twin(rows.double()).square().mean().backward()
    torch.set_float32_matmul_precision("medium")
    found = layer(rows)
    found.square().mean().backward()
    with torch.no_grad():
        assert torch.equal(layer(rows), found)  # a search compares losses with gradients and without
        torch.testing.assert_close(found.double(), twin(rows.double()), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.weight.grad.double(), twin.weight.grad, atol=1e-7, rtol=1e-4)
