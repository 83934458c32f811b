"""The adapter's section of a configuration as the user wrote it."""

from __future__ import annotations

from pydoc import locate
from typing import Any

from jsonargparse import Namespace


def drop_unwritten_loftq(config: Namespace) -> None:
    """Remove the options of LoftQ that nobody wrote.

    jsonargparse 4.53 fills the empty default of peft's `loftq_config` with the defaults of LoftQConfig, and peft 0.21.2
    warns in every run of another start that they are ignored.

    Args:
        config: The configuration of the subcommand; changed in place.
    """
    adapter: Any = config.model.get("init_args", Namespace()).get("adapter")
    options: Any = (adapter.get("init_args") if isinstance(adapter, Namespace) else None) or {}
    written = options.get("loftq_config")
    if not isinstance(written, Namespace) or options.get("init_lora_weights") == "loftq":
        return
    loftq: Any = locate("peft.LoftQConfig")
    if written.as_dict() == vars(loftq()):
        del options["loftq_config"]
