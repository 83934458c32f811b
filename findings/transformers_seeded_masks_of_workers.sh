#!/usr/bin/env bash
# transformers 5.23.0: DataCollatorForLanguageModeling with a `seed` draws the same masks in every epoch as soon as the loader has
# workers: each worker makes its generator from the seed and its number, and torch starts new workers for each epoch. Masking
# that is meant to be new in each epoch (dynamic masking) is that of the first, for rows in a fixed order token by token;
# rows in another order get the masks of their places. Without workers, without a seed, or with `persistent_workers` the masks
# are new.
# Seen, three epochs: 1 set of masks with a seed and two workers, 3 in the other four cases.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers==5.23.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
from tokenizers import Tokenizer, models
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast
from transformers.data.data_collator import DataCollatorForLanguageModeling

words = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[MASK]", *"abcdefghij"])}
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[UNK]")),
    pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]",
)
rows = [{"input_ids": [3 + (row + place) % 10 for place in range(20)]} for row in range(32)]


def sets_of_masks(seed, workers, persistent):
    """Return how many different sets of masks three epochs have."""
    collate = DataCollatorForLanguageModeling(tokenizer, seed=seed)
    loader = DataLoader(rows, batch_size=8, num_workers=workers, collate_fn=collate, persistent_workers=persistent)
    return len({str([(batch["labels"] != -100).tolist() for batch in loader]) for _ in range(3)})


if __name__ == "__main__":
    found = {case: sets_of_masks(*case)
             for case in ((1, 2, False), (1, 0, False), (None, 0, False), (None, 2, False), (1, 2, True))}
    for (seed, workers, persistent), count in found.items():
        print(f"seed {seed}, {workers} workers{', persistent' if persistent else ''}: {count} sets of masks in 3 epochs")
    assert found.pop((1, 2, False)) == 1 and set(found.values()) == {3}, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" 2> "$folder/log" || { cat "$folder/log"; exit 1; }
