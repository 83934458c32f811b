#!/usr/bin/env bash
# What one GPU shows in ten minutes: the tests with the marker gpu, time and synchronisations of a step, memory, and a
# study of methods without a learning rate as far as the minutes go. Nothing is fetched from a network.
#
#   benchmarks/on_gpu.sh --pack       here: what the other machine lacks, 60 MB at most, into .gpu/ (needs GLUE_DIR)
#   benchmarks/on_gpu.sh              there, with .gpu/ beside the clone's files: measure, and write the report
#   DEVICE=cpu benchmarks/on_gpu.sh   the same on a CPU, with tiny settings: a check of this script
#
# Variables: PACK (.gpu), PACK_PYTHON (3.12: the Python of the GPU's machine), PYTHON (python3), OUT
# (benchmarks/results/gpu), DEVICE (cuda), MINUTES (9; 30 on a CPU, where sections may take four times as long).
set -uo pipefail
cd "$(dirname "$0")/.."
PACK=${PACK:-.gpu} PYTHON=${PYTHON:-python3} OUT=${OUT:-benchmarks/results/gpu} DEVICE=${DEVICE:-cuda}
SLOWER=1
[ "$DEVICE" = cpu ] && SLOWER=4 MINUTES=${MINUTES:-30}
DEADLINE=$((SECONDS + ${MINUTES:-9} * 60))
# What a machine with torch, transformers, lightning and peft may lack.
WHEELS=(datasets dill multiprocess xxhash jsonargparse docstring-parser typeshed-client tensorboard
    tensorboard-data-server schedulefree prodigyopt pytest pytest-timeout hypothesis sortedcontainers)

pack() {
    : "${GLUE_DIR:?GLUE_DIR: name the folder with the official GLUE files}"
    rm -rf "$PACK" && mkdir -p "$PACK/wheels" "$PACK/glue/SST-2"
    platforms=()
    for glibc in 2_28 2_27 2_24 2_17 2014; do
        platforms+=(--platform "manylinux${glibc:+$([ "$glibc" = 2014 ] || echo _)}${glibc}_x86_64")
    done
    "$PYTHON" -m pip download -q --no-deps --only-binary=:all: --python-version "${PACK_PYTHON:-3.12}" \
        --implementation cp "${platforms[@]}" -c constraints.txt -d "$PACK/wheels" "${WHEELS[@]}" || return 1
    cp "$GLUE_DIR/SST-2/dev.tsv" "$PACK/glue/SST-2/"
    head -n 20001 "$GLUE_DIR/SST-2/train.tsv" >"$PACK/glue/SST-2/train.tsv"
    "$PYTHON" -m benchmarks.half_precision_model "$PACK/model" || return 1
    bytes=$(du -sb "$PACK" | cut -f1)
    echo "$PACK: $((bytes / 1000000)) MB"
    [ "$bytes" -le 60000000 ] || { echo "on_gpu.sh: $PACK has more than 60 MB" >&2; return 1; }
}

if [ "${1:-}" = --pack ]; then
    pack
    exit
fi

if [ -d "$PACK/wheels" ]; then
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/on_gpu_site \
        "$PACK"/wheels/*.whl || exit 1
    export PYTHONPATH="/tmp/on_gpu_site${PYTHONPATH:+:$PYTHONPATH}"
fi
export GLUE_DIR="$PWD/$PACK/glue" LINETUNE_MODEL="$PWD/$PACK/model" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
[ -d "$LINETUNE_MODEL" ] || { echo "on_gpu.sh: no $PACK/model; make it with benchmarks/on_gpu.sh --pack" >&2; exit 2; }
mkdir -p "$OUT"
REPORT="$OUT/report.md"

# Runs a command for at most so many seconds, and no longer than to the deadline; its output goes into the report.
section() {
    local title=$1 seconds=$(($2 * SLOWER)) left=$((DEADLINE - SECONDS))
    shift 2
    printf '\n## %s\n\n' "$title" >>"$REPORT"
    if [ "$left" -lt 10 ]; then
        echo "Not run: no time was left." >>"$REPORT"
        return
    fi
    echo "[$SECONDS s] $title" >&2
    timeout -k 10 "$((seconds < left ? seconds : left))" "$@" >>"$REPORT" 2>"$OUT/errors.txt"
    local status=$?
    if [ "$status" -ne 0 ]; then
        printf '\nStatus %s: %s\n' "$status" "$(grep -v '^$' "$OUT/errors.txt" | tail -n 1)" >>"$REPORT"
    fi
}

{
    printf '# On one GPU\n\n'
    "$PYTHON" - <<'END'
import lightning, torch, transformers

device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: a check of the script on a CPU"
print(f"{device}; torch {torch.__version__}, lightning {lightning.__version__}, transformers {transformers.__version__}")
END
    echo "Commit $(git describe --always --dirty 2>/dev/null || echo unknown)."
} >"$REPORT"

if [ "$DEVICE" = cpu ]; then
    model=$LINETUNE_MODEL steps=2 methods=(AdamW SaLSA) size=25m memory=(evaluation MeZO) study=(--variant check)
else
    model=bert-base steps=80 methods=("fused AdamW" AdamW ParabolicAdam SaLSA AdamSLS) size=1b memory=()
    study=()
fi
step_cost=("$PYTHON" -m benchmarks.step_cost --data-dir "$GLUE_DIR" --tokenizer "$LINETUNE_MODEL" --device "$DEVICE"
    --model "$model" --methods "${methods[@]}" --steps "$steps" --no-pairs --precision bf16-mixed)

section "Tests with the marker gpu" 90 "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider tests/optimizers \
    tests/callbacks/test_peak_memory_monitor.py
section "Time of a step, bf16-mixed" 120 "${step_cost[@]}"
section "Synchronisations per step" 60 "$PYTHON" -m benchmarks.synchronisations --device "$DEVICE"
section "Peak memory" 150 "$PYTHON" -m benchmarks.memory --device "$DEVICE" --size "$size" \
    ${memory[@]+--methods "${memory[@]}"}
# The last half minute is for the report of what has finished.
DEADLINE=$((DEADLINE - 30))
study=("$PYTHON" -m benchmarks.study configs/studies/on_gpu.yaml ${study[@]+"${study[@]}"} --output "$PACK/runs"
    --report "$OUT/study" --device "$DEVICE" --jobs 2)
section "Study of methods without a learning rate" 600 "${study[@]}"
DEADLINE=$((DEADLINE + 30))
[ -f "$OUT/study/report.md" ] || section "Report of the runs that finished" 30 "${study[@]}" --report-only
rm -f "$OUT/errors.txt"
echo "$REPORT"
