"""linetune: fine-tunes pretrained transformers without tuning a learning rate.

The code is in the packages ``optimizers``, ``lightning_modules``, ``datamodules`` and ``callbacks``. Importing this one
first finds them even where the current folder has files of these names.
"""

import gc
import importlib
import sys
from pathlib import Path

__version__ = "0.1.0"

PACKAGES = ("optimizers", "datamodules", "lightning_modules", "callbacks")
# The folder that holds these packages: of the installed ones, or the clone.
HOME = Path(__file__).resolve().parent.parent

# Imports make very many objects that stay. Python 3.11 looks through them again and again meanwhile, and once more at
# exit: collection waits, and then leaves these objects alone.
_collects_garbage = gc.isenabled()
gc.disable()
sys.path.insert(0, str(HOME))
try:
    for _name in PACKAGES:
        _file = getattr(importlib.import_module(_name), "__file__", None) or "another place"
        if HOME not in Path(_file).resolve().parents:
            raise ImportError(
                f"linetune: {_name} was taken from {_file}; import linetune before it, or rename that file"
            )
finally:
    sys.path.remove(str(HOME))
    gc.freeze()
    if _collects_garbage:
        gc.enable()
