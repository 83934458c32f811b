#!/usr/bin/env bash
# datasets 5.2.0: `Dataset.from_list` has the columns of the first row. What later rows have besides is left out, without a word; what they
# lack is None. One row that comes first without an optional field takes the field from all. Through a frame of pandas the same
# rows keep it.
# Seen, 1000 rows of which all but the first have "context": `from_list` has the column "text" alone; with the first row moved to the
# end it has both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "datasets==5.2.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import pandas
from datasets import Dataset

rows = [{"text": "row 0"}] + [{"text": f"row {row}", "context": f"context {row}"} for row in range(1, 1000)]
given, turned = Dataset.from_list(rows), Dataset.from_list(rows[1:] + rows[:1])
frame = Dataset.from_pandas(pandas.DataFrame(rows))
print("as given:", given.column_names, "first row last:", turned.column_names, "through pandas:", frame.column_names)
assert given.column_names == ["text"] and len(given) == 1000, "the behaviour has changed"
assert turned.column_names == frame.column_names == ["text", "context"], "the behaviour has changed"
assert turned[-1] == {"text": "row 0", "context": None}, "the behaviour has changed"
PYTHON
HF_HOME="$folder/home" "$folder/venv/bin/python" "$folder/try.py"
