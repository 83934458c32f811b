#!/usr/bin/env bash
# accelerate 1.15.0: in the last batch of an evaluation `gather_for_metrics` cuts whatever it is given down to the number of
# rows that are left, on one process too, where nothing was added. What has several entries for a row (labels of tokens after
# the mask, several generated texts, windows of a long text) loses all but the first few, without a word. Scores then depend on
# the batch size, and leave out the last rows. With `gather` on one process, or one entry for a row, all is right.
# Seen, ten texts of five tokens in batches of four, one process: 20, 20 and 2 entries in place of 20, 20 and 10.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "accelerate==1.15.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

accelerator = Accelerator(cpu=True)
texts = torch.arange(50).reshape(10, 5)  # ten texts of five tokens
given, gathered = [], []
for batch in accelerator.prepare(DataLoader(texts, batch_size=4)):
    tokens = batch.flatten()
    given.append(len(tokens))
    gathered.append(len(accelerator.gather_for_metrics(tokens)))
print(f"{accelerator.num_processes} process: given {given}, gathered {gathered}")
assert accelerator.num_processes == 1 and given == [20, 20, 10], "the setting has changed"
assert gathered == [20, 20, 2], "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py"
