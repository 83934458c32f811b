#!/usr/bin/env bash
# datasets 5.2.0: `class_encode_column` renumbers labels that are numbers already, if there are more than ten: it sorts them as
# texts, so that of twelve labels 10 becomes 2, and 2 becomes 4. It has to come before a split with `stratify_by_column`, and
# after it the labels no longer fit the `id2label` of a checkpoint, or predictions made before. Up to ten labels from 0 on
# stay as they are. (`cast_column` with a ClassLabel keeps the numbers.)
# Seen, labels 0 to 11: 0 1 4 5 6 7 8 9 10 11 2 3 afterwards.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "datasets==5.2.0" "pyarrow==26.0.1" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
from datasets import ClassLabel, Dataset, disable_progress_bars

disable_progress_bars()


def encoded(count):
    return Dataset.from_dict({"label": list(range(count))}).class_encode_column("label")


ten, twelve = list(encoded(10)["label"]), list(encoded(12)["label"])
names = encoded(12).features["label"].names
cast = Dataset.from_dict({"label": list(range(12))}).cast_column("label", ClassLabel(num_classes=12))
print(f"ten labels: {ten}\ntwelve:     {twelve}\nnames:      {names}")
assert ten == list(range(10)) and list(cast["label"]) == list(range(12)), "the behaviour has changed"
assert twelve == [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3] and names[2:4] == ["10", "11"], "the behaviour has changed"
PYTHON
HF_HOME="$folder/home" "$folder/venv/bin/python" "$folder/try.py"
