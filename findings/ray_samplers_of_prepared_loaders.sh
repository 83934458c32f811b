#!/usr/bin/env bash
# ray 2.60.0: `ray.train.torch.prepare_data_loader` puts a DistributedSampler over the whole dataset in the place of the loader's sampler as soon
# as there are two workers. What the sampler was for is gone: SubsetRandomSampler, with which tutorials split a dataset, trains on every
# row, those held out for validation too, and WeightedRandomSampler no longer balances classes. With one worker both are kept, so
# that a script that was tried on one is another experiment on several. Nothing is said.
# Seen, 1000 rows, the last 200 held out, a tenth of class 1 weighted to a half: with one worker 0 held-out rows are trained on and
# 0.50 are of class 1; with two workers all 200, and 0.10.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "ray[train]==2.60.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import ray
import torch
from ray.train import RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchTrainer, prepare_data_loader
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset, WeightedRandomSampler

ROWS = torch.arange(1000)
LABELS = (ROWS % 10 == 0).long()


def read(config):
    """Write the rows of one epoch of each of two loaders to a file of this worker."""
    torch.manual_seed(0)
    dataset = TensorDataset(ROWS)
    weights = torch.where(LABELS == 1, 9.0, 1.0)
    samplers = {"subset": SubsetRandomSampler(range(800)), "weighted": WeightedRandomSampler(weights, 1000)}
    rows = {}
    for name, sampler in samplers.items():
        loader = prepare_data_loader(DataLoader(dataset, batch_size=50, sampler=sampler))
        rows[name] = torch.cat([batch[0] for batch in loader]).tolist()
    Path(config["folder"], f"{get_context().get_world_rank()}.json").write_text(json.dumps(rows), encoding="utf-8")


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
found = {}
for workers in (1, 2):
    folder = Path(sys.argv[1], str(workers))
    folder.mkdir()
    run = RunConfig(storage_path=str(folder / "results"))
    TorchTrainer(
        read, train_loop_config={"folder": str(folder)}, scaling_config=ScalingConfig(num_workers=workers), run_config=run
    ).fit()
    files = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    assert len(files) == workers, "the setting has changed"
    subset, weighted = (sum((file[name] for file in files), []) for name in ("subset", "weighted"))
    held_out = sum(row >= 800 for row in set(subset))
    share = LABELS[torch.tensor(weighted)].float().mean().item()
    found[workers] = held_out, share
    print(f"{workers} workers: {held_out} held-out rows are trained on; a share of {share:.2f} is of class 1")
assert found[1][0] == 0 and found[1][1] > 0.4, "the setting has changed"
assert found[2][0] == 200 and found[2][1] < 0.15, "the behaviour has changed"
PYTHON
RAY_USAGE_STATS_ENABLED=0 RAY_TMPDIR="$folder" "$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder" 2> "$folder/errors" \
    || { cat "$folder/errors"; exit 1; }
