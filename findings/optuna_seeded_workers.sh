#!/usr/bin/env bash
# optuna 5.0.0: a sampler with a seed draws the same trials in every process and after every restart. Four processes that run one script
# with `TPESampler(seed=42)` on a shared study try the same values, and a study that is stopped and started again tries its
# first values again, as long as it has fewer finished trials than `n_startup_trials`. Trials that are alike are run and
# recorded as any others.
# Seen, one learning rate, `n_startup_trials=40`: 5 different values in 10 trials of two starts of 5 with a seed, 10 without; 10 in 40
# trials of four processes with a seed, 40 without.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "optuna==5.0.0"
cat > "$folder/try.py" <<'PYTHON'
import subprocess
import sys

import optuna
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

optuna.logging.set_verbosity(optuna.logging.WARNING)


def score(trial):
    return (trial.suggest_float("lr", 1e-6, 1e-3, log=True) - 1e-4) ** 2


def shared(file):
    return JournalStorage(JournalFileBackend(file))


def run(file, seed, trials):
    sampler = TPESampler(seed=seed, n_startup_trials=40)
    optuna.create_study(study_name="rates", storage=shared(file), sampler=sampler, load_if_exists=True).optimize(score, trials)


if len(sys.argv) == 4:
    run(sys.argv[1], None if sys.argv[2] == "None" else int(sys.argv[2]), int(sys.argv[3]))
    sys.exit()
found = {}
for seed in (42, None):
    for case, starts, trials in (("restarted", 2, 5), ("processes", 4, 10)):
        file = f"{sys.argv[1]}/{case}{seed}.log"
        optuna.create_study(study_name="rates", storage=shared(file))
        command = [sys.executable, "-W", "ignore", __file__, file, str(seed), str(trials)]
        if case == "restarted":
            for _ in range(starts):
                subprocess.run(command, check=True)
        else:
            running = [subprocess.Popen(command) for _ in range(starts)]
            assert all(process.wait() == 0 for process in running)
        rates = [trial.params["lr"] for trial in optuna.load_study(study_name="rates", storage=shared(file)).trials]
        found[case, seed] = len(rates), len(set(rates))
        print(f"{case}, seed {seed}: {len(set(rates))} different values in {len(rates)} trials")
assert found["restarted", 42] == (10, 5) and found["restarted", None] == (10, 10), "the behaviour has changed"
assert found["processes", 42] == (40, 10) and found["processes", None] == (40, 40), "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder"
