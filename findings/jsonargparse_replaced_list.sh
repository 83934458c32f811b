#!/usr/bin/env bash
# jsonargparse 4.53.0: where a list of classes is given a second time (on the command line after a config file), an element of
# the class that stood at its place before inherits that one's arguments. What looks like a new list is a mixture; a list of
# dicts or of numbers is replaced.
# Seen: [Saver(monitor="loss")] and then [Saver(every=3)] come to Saver(monitor="loss", every=3).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "jsonargparse[signatures]==4.53.0"
cat > "$folder/try.py" <<'PYTHON'
from jsonargparse import ArgumentParser


class Callback:
    pass


class Saver(Callback):
    def __init__(self, monitor: str | None = None, every: int | None = None):
        pass


parser = ArgumentParser()
parser.add_argument("--callbacks", type=list[Callback])
first, second = (
    "[{\"class_path\": \"__main__.Saver\", \"init_args\": {\"%s\": %s}}]" % each for each in (("monitor", "\"loss\""), ("every", "3"))
)
alone = parser.parse_args(["--callbacks", second]).callbacks[0].init_args.as_dict()
after = parser.parse_args(["--callbacks", first, "--callbacks", second]).callbacks[0].init_args.as_dict()
print(f"alone {alone}; after the other list {after}")
assert alone == {"monitor": None, "every": 3}, "the behaviour has changed"
assert after == {"monitor": "loss", "every": 3}, "the behaviour has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" "$folder"
