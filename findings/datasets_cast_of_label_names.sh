#!/usr/bin/env bash
# datasets 5.2.0: `cast_column` to a ClassLabel keeps the numbers and gives them other names. Two data sets whose labels have the same
# names in another order cannot be concatenated ("The features can't be aligned"), and the cast that makes the features equal,
# which is what the message suggests, turns every label of the second one around without a word. What goes by the names is
# `align_labels_with_mapping`, or a cast to texts first.
# Seen, names [neg, pos] and [pos, neg]: after the cast "great" is neg and "awful" is pos; with align_labels_with_mapping "great" is pos.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "datasets==5.2.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets


def reviews(texts, labels, names):
    return Dataset.from_dict(
        {"text": texts, "label": [names.index(label) for label in labels]},
        features=Features({"text": Value("string"), "label": ClassLabel(names=names)}),
    )


def named(rows):
    return dict(zip(rows["text"], rows.features["label"].int2str(list(rows["label"])), strict=True))


first = reviews(["good", "bad"], ["pos", "neg"], ["neg", "pos"])
second = reviews(["great", "awful"], ["pos", "neg"], ["pos", "neg"])
try:
    concatenate_datasets([first, second])
    message = "none"
except ValueError as error:
    message = str(error)
cast = concatenate_datasets([first, second.cast_column("label", first.features["label"])])
aligned = concatenate_datasets([first, second.align_labels_with_mapping({"neg": 0, "pos": 1}, "label")])
print("refused:", message[:40])
print("cast:", named(cast))
print("aligned:", named(aligned))
assert "can't be aligned" in message and named(second) == {"great": "pos", "awful": "neg"}, "the behaviour has changed"
assert named(cast) == {"good": "pos", "bad": "neg", "great": "neg", "awful": "pos"}, "the behaviour has changed"
assert named(aligned) == {"good": "pos", "bad": "neg", "great": "pos", "awful": "neg"}, "the behaviour has changed"
PYTHON
HF_HOME="$folder/home" "$folder/venv/bin/python" "$folder/try.py"
