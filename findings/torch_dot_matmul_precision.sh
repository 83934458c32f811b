#!/usr/bin/env bash
# torch 2.13.0, on a CPU with bfloat16 instructions (avx512_bf16): torch.set_float32_matmul_precision("medium"), which is
# there to make products of float32 matrices faster, makes the inner product of two float32 vectors slower. torch.dot
# leaves the BLAS for oneDNN, as a product of 1 x n and n x 1 that is allowed to round to bfloat16. (x * y).sum() stays
# where it was. Optimizers take inner products of all gradients.
# Seen on an AMD EPYC, one thread, 2^18 entries: 18 microseconds before, 285 after (busier: 42 and 573); oneDNN is called
# 0 times at "highest" and "high", once at "medium".
set -euo pipefail
if ! grep -q avx512_bf16 /proc/cpuinfo; then
    echo "not tried: this CPU has no bfloat16 instructions, without which torch ignores the setting"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" numpy
cat > "$folder/try.py" <<'PYTHON'
import sys
from timeit import repeat

import torch

torch.set_float32_matmul_precision(sys.argv[1])
vector = torch.ones(1 << 18)
if sys.argv[2] == "once":
    torch.dot(vector, vector) if sys.argv[3] == "dot" else (vector * vector).sum()
else:
    seconds = min(repeat(lambda: torch.dot(vector, vector), number=100, repeat=5)) / 100
    print(f"{sys.argv[1]}: {seconds * 1e6:.0f} microseconds")
PYTHON
calls() {
    ONEDNN_VERBOSE=1 OMP_NUM_THREADS=1 "$folder/venv/bin/python" "$folder/try.py" "$1" once "$2" \
        | grep -c "primitive,exec,cpu,matmul" || true
}
found="dot: $(calls highest dot) $(calls high dot) $(calls medium dot), sum: $(calls medium sum)"
echo "calls of oneDNN at highest, high and medium: $found"
for precision in highest medium; do
    OMP_NUM_THREADS=1 "$folder/venv/bin/python" "$folder/try.py" "$precision" time
done
test "$found" = "dot: 0 0 1, sum: 0" || { echo "the behaviour has changed"; exit 1; }
