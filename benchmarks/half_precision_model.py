"""The packaged model with its tokenizer as a folder in half precision, which `benchmarks/on_gpu.sh` takes along.

python -m benchmarks.half_precision_model FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from lightning_modules.models.packaged_models import OFFLINE_PREFIX, PACKAGED_MODELS, packaged_folder


def write_model(folder: str | Path) -> None:
    """Write the first packaged model in float16, half the bytes of its own folder, and its tokenizer.

    Args:
        folder: Where to write.
    """
    source = packaged_folder(OFFLINE_PREFIX + next(iter(PACKAGED_MODELS)))
    AutoModel.from_pretrained(source, dtype=torch.float16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.half_precision_model", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("folder", help="folder to write")
    write_model(parser.parse_args().folder)
