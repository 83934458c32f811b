"""The model that on_gpu.sh takes along is the packaged one, rounded to half precision."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks.half_precision_model import write_model
from lightning_modules.models.packaged_models import packaged_folder


def test_it_is_the_packaged_one_rounded(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    source = packaged_folder("offline:all-MiniLM-L6-v2")
    expected, found = (AutoModel.from_pretrained(each).state_dict() for each in (source, tmp_path / "model"))
    assert {value.dtype for value in found.values() if value.is_floating_point()} == {torch.float16}
    assert all(torch.equal(found[name], value.to(found[name].dtype)) for name, value in expected.items())
    text = "a good film"
    assert AutoTokenizer.from_pretrained(tmp_path / "model")(text) == AutoTokenizer.from_pretrained(source)(text)
    assert sum(file.stat().st_size for file in (tmp_path / "model").iterdir()) < 47_000_000  # of 60 MB in all


def test_the_script_makes_it_so() -> None:
    script = (Path(__file__).parents[2] / "benchmarks/on_gpu.sh").read_text(encoding="utf-8")
    assert '"$PYTHON" -m benchmarks.half_precision_model "$PACK/model"' in script
