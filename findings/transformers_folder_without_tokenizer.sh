#!/usr/bin/env bash
# transformers 5.23.0: AutoTokenizer loads a model folder that holds no tokenizer file at all, without an error or a
# warning. The tokenizer knows five special tokens, so that every text becomes unknown tokens, and a model trains or
# predicts on them.
# Seen: 5 tokens; "a good film" and "a bad film" have the same ids.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "transformers==5.23.0"
cat > "$folder/try.py" <<'PYTHON'
import sys
import warnings

from transformers import AutoTokenizer, BertConfig

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    BertConfig().save_pretrained(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
good, bad = (tokenizer(text)["input_ids"] for text in ("a good film", "a bad film"))
print(f"{len(tokenizer)} tokens; {good} and {bad}; warnings about it: "
      f"{sum('token' in str(warning.message).lower() for warning in caught)}")
assert len(tokenizer) == 5, "the behaviour has changed"
assert good == bad, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder/model"
