#!/usr/bin/env bash
# datasets 5.2.0: a stream that is shuffled and then split by `take` and `skip`, as the guide to streaming shows it, is split anew
# in every epoch. `set_epoch` changes the order in which the split counts, and reaches the part that it is called on: the
# training part gets it from transformers' Trainer and accelerate's loaders at every epoch, the validation part stays at
# epoch 0. From the second epoch on validation rows are trained on, and others are never. Split first and shuffled then, the
# parts stay apart. Asked in 2023 (huggingface/datasets issue 5435).
# Seen, 1000 rows in 4 shards, 100 of them for validation: 0, 29 and 31 of these in the training rows of three epochs;
# 0 each time where the split comes first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "datasets==5.2.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
from datasets import Dataset

rows = Dataset.from_dict({"row": list(range(1000))}).to_iterable_dataset(num_shards=4)


def leaked(training, validation):
    """Return how many validation rows each of three epochs trains on, and how many any of them does."""
    held_out, counts, seen = {row["row"] for row in validation}, [], set()
    for epoch in range(3):
        training.set_epoch(epoch)
        trained = {row["row"] for row in training}
        counts.append(len(trained & held_out))
        seen |= trained & held_out
    return counts, len(seen)


shuffled = rows.shuffle(seed=42, buffer_size=100)
after, in_any = leaked(shuffled.skip(100), shuffled.take(100))
before, in_none = leaked(rows.skip(100).shuffle(seed=42, buffer_size=100), rows.take(100))
print(f"shuffled, then split: {after}, {in_any} in any; split, then shuffled: {before}")
assert after[0] == 0 and min(after[1:]) > 10, "the behaviour has changed"
assert before == [0, 0, 0] and in_none == 0, "the behaviour has changed"
PYTHON
HF_HOME="$folder/home" "$folder/venv/bin/python" "$folder/try.py"
