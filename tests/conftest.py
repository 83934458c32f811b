"""What every test shares: no hub, one thread, seeded generators, a tiny model."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# How long an example takes says nothing about the code: it depends on what else the machine does.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skipped = {} if torch.cuda.is_available() else {"gpu": "needs a CUDA device"}
    if "all_families" not in config.option.markexpr:
        skipped["all_families"] = "takes minutes; run by pytest -m all_families"
    for item in items:
        for marker, reason in skipped.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny BERT with random weights."""
    from tests.tiny_models import save_tiny_bert  # transformers, which most tests of optimizers do without

    return str(save_tiny_bert(tmp_path_factory.mktemp("tiny")))
