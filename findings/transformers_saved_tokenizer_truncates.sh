#!/usr/bin/env bash
# transformers 5.24.0: `save_pretrained` of a tokenizer writes into tokenizer.json how its last call truncated and padded. Loaded by
# transformers the tokenizer knows nothing of it, since each call sets both anew; but tokenizer.json is what the tokenizers library reads, in
# Python, Rust and JavaScript, where a model is served: there every text is cut at the length of the last batch of training or evaluation, or
# filled up to it, without a word. A call without truncation and padding before it is saved leaves both out. A pull request of another
# project (vllm-project/llm-compressor 2917) met it in 2026.
# Seen, a call with `truncation=True, max_length=8, padding="max_length"`, then `save_pretrained`: of a text of 30 words 8 tokens by
# `Tokenizer.from_file`, and 8 of a text of one word; by AutoTokenizer 32 and 3, as by `Tokenizer.from_file` after a plain call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.24.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import tempfile
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, BertTokenizerFast

LONG, SHORT = " ".join(f"w{number}" for number in range(30)), "w1"


def lengths(folder):
    """Return how many tokens the long and the short text have by tokenizer.json, and by transformers."""
    plain, loaded = Tokenizer.from_file(str(Path(folder, "tokenizer.json"))), AutoTokenizer.from_pretrained(folder)
    return [[len(plain.encode(text).ids) for text in (LONG, SHORT)], [len(loaded(text)["input_ids"]) for text in (LONG, SHORT)]]


with tempfile.TemporaryDirectory() as folder:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LONG.split()]
    Path(folder, "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = BertTokenizerFast(str(Path(folder, "vocab.txt")))
    tokenizer([LONG, SHORT], truncation=True, max_length=8, padding="max_length")
    tokenizer.save_pretrained(folder)
    after_batch = lengths(folder)
    tokenizer(LONG)
    tokenizer.save_pretrained(folder)
    after_plain_call = lengths(folder)
print(f"tokens of a text of 30 words and one of 1: by tokenizer.json {after_batch[0]}, by transformers {after_batch[1]}")
print(f"after a plain call: by tokenizer.json {after_plain_call[0]}, by transformers {after_plain_call[1]}")
assert after_plain_call == [[32, 3], [32, 3]], "the setting has changed"
assert after_batch == [[8, 8], [32, 3]], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
