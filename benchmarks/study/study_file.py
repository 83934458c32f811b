"""The file of a study, read and checked before any run starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.definition import (
    Axis,
    Budget,
    Level,
    Published,
    RegretOptions,
    ReportOptions,
    Study,
    label_of,
    labels_by_axis,
)
from benchmarks.study.yaml_file import merge, read_yaml

STUDY_KEYS = (
    "axes",
    "budget",
    "configs",
    "description",
    "expected_seconds",
    "metric",
    "published",
    "report",
    "seeds",
    "settings",
    "timeout_minutes",
    "title",
    "variants",
)
LEVEL_KEYS = ("axes", "budget", "configs", "metric", "settings")
VALUES_KEYS = ("keys", "values")
BUDGET_KEYS = ("epochs", "seconds", "steps")
REPORT_KEYS = ("primary", "regret", "stability", "tables_by", "tune_over")
REGRET_KEYS = ("chose_constants", "grid", "settings")
PUBLISHED_KEYS = ("measure", "note", "ours", "rows", "source")
# Columns of our results that a published number can be compared with.
COMPARABLE = (
    "score",
    "final",
    "best",
    "final_loss",
    "best_loss",
    "peak_memory_mib",
    "seconds_per_step",
    "train_seconds",
)

# Arguments that the study sets for every run, so that a file must not set them, each with the key to use instead.
RESERVED_SETTINGS = {
    "seed_everything": "use seeds",
    "trainer.max_epochs": "use budget: {epochs: …}",
    "trainer.max_steps": "use budget: {steps: …}",
    "trainer.max_time": "use budget: {seconds: …}",
    "trainer.default_root_dir": "use --output",
    "trainer.logger": "every run of a study logs to TensorBoard and to its history file",
}


def load_study(path: str | Path, variant: str | None = None) -> Study:
    """Read and check a study file.

    Args:
        path: The YAML file.
        variant: Name of an entry under ``variants:`` whose keys change the rest of the file: mappings are merged,
            other values replaced, and ``null`` removes a key.

    Raises:
        ValueError: One line that names the file, the key, what is wrong and what is allowed.
    """
    path = Path(path)
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: a study is a mapping with the keys {', '.join(STUDY_KEYS)}")
    variants = content.get("variants") or {}
    if not isinstance(variants, Mapping):
        raise ValueError(f"{path}: variants: expected a mapping from a name to the keys that change")
    if variant is not None:
        if variant not in variants:
            known = ", ".join(sorted(map(str, variants))) or "none"
            raise ValueError(f"{path}: no variant {variant!r} (the file has: {known})")
        changes = variants[variant] or {}
        if not isinstance(changes, Mapping):
            raise ValueError(f"{path}: variants.{variant}: expected a mapping of the keys that change, got {changes!r}")
        content = merge(content, changes)
    reader = _Reader(str(path))
    return reader.study({key: value for key, value in content.items() if key != "variants"}, path, variant)


class _Reader:
    """Converts the mapping of a file into a `Study`; errors name the file and the key."""

    def __init__(self, file: str) -> None:
        self.file = file

    def fail(self, where: str, what: str) -> ValueError:
        return ValueError(f"{self.file}: {where}: {what}" if where else f"{self.file}: {what}")

    def study(self, content: Mapping[str, Any], path: Path, variant: str | None) -> Study:
        self.keys(content, STUDY_KEYS, "")
        for key in ("axes", "seeds", "budget"):
            if key not in content:
                raise self.fail("", f"the key {key!r} is missing")
        axes = self.axes(content["axes"], "axes")
        return Study(
            name=path.stem if variant is None else f"{path.stem}-{variant}",
            path=path,
            title=self.text(content.get("title", path.stem), "title"),
            description=self.text(content.get("description", ""), "description").strip(),
            configs=self.configs(content.get("configs", ()), "configs"),
            settings=self.settings(content.get("settings", {}), "settings"),
            axes=axes,
            seeds=self.seeds(content["seeds"]),
            budget=self.budget(content["budget"], "budget"),
            metric=self.metric(content.get("metric", "val/accuracy"), "metric"),
            report=self.report(content.get("report", {}), axes),
            published=self.published(content.get("published", ()), list(labels_by_axis(axes))),
            timeout_minutes=self.positive(content.get("timeout_minutes"), "timeout_minutes"),
            expected_seconds=self.positive(content.get("expected_seconds"), "expected_seconds"),
        )

    def keys(self, mapping: Any, allowed: Sequence[str], where: str) -> None:
        if not isinstance(mapping, Mapping):
            raise self.fail(where, f"expected a mapping with the keys {', '.join(allowed)}")
        for key in mapping:
            if key not in allowed:
                raise self.fail(where, f"unknown key {key!r} (allowed: {', '.join(allowed)})")

    def text(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise self.fail(where, f"expected text, got {value!r}")
        return value

    def metric(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or "/" not in value:
            raise self.fail(where, f"expected the name of a logged metric such as val/accuracy, got {value!r}")
        return value

    def positive(self, value: Any, where: str) -> float | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0 or math.isinf(value):
            raise self.fail(where, f"expected a number above 0, got {value!r}")
        return float(value)

    def seeds(self, value: Any) -> tuple[int, ...]:
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return tuple(range(value))
        if isinstance(value, list) and value and all(isinstance(s, int) and not isinstance(s, bool) for s in value):
            if len(set(value)) < len(value):
                raise self.fail("seeds", f"a seed appears twice in {value}")
            if min(value) >= 0:
                return tuple(value)
        raise self.fail("seeds", f"expected how many (at least 1) or a list of whole numbers from 0 on, got {value!r}")

    def budget(self, value: Any, where: str) -> Budget:
        self.keys(value, BUDGET_KEYS, where)
        if len(value) != 1:
            raise self.fail(where, f"expected exactly one of {', '.join(BUDGET_KEYS)}, got {dict(value)}")
        ((unit, amount),) = value.items()
        number = self.positive(amount, f"{where}.{unit}")
        if number is None:
            raise self.fail(f"{where}.{unit}", "expected a number above 0")
        if unit == "seconds":
            return Budget(seconds=number)
        if number != int(number):
            raise self.fail(f"{where}.{unit}", f"expected a whole number, got {amount!r}")
        return Budget(**{unit: int(number)})

    def configs(self, value: Any, where: str) -> tuple[str, ...]:
        files = [value] if isinstance(value, str) else value
        if not isinstance(files, (list, tuple)) or not all(isinstance(file, str) for file in files):
            raise self.fail(where, f"expected a config file or a list of them, got {value!r}")
        for file in files:
            if not Path(file).is_file():
                folder = Path(file).parent
                there = ", ".join(sorted(p.name for p in folder.glob("*.yaml"))) if folder.is_dir() else ""
                hint = f"{folder} has: {there}" if there else f"there is no config in {folder}"
                raise self.fail(where, f"no such config: {file} ({hint})")
        return tuple(files)

    def settings(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise self.fail(where, "expected a mapping from dotted keys (data.max_train_samples) to values")
        for key in value:
            self.setting_key(key, where)
        return dict(value)

    def setting_key(self, key: Any, where: str) -> str:
        if not isinstance(key, str) or not key:
            raise self.fail(where, f"expected a dotted key such as data.max_train_samples, got {key!r}")
        for reserved, instead in RESERVED_SETTINGS.items():
            if key == reserved or key.startswith(reserved + "."):
                raise self.fail(where, f"{key} is set by the study itself: {instead}")
        return key

    def axes(self, value: Any, where: str) -> tuple[Axis, ...]:
        if not isinstance(value, Mapping) or not value:
            raise self.fail(where, "expected a mapping from an axis (task, optimizer, a dotted key) to its levels")
        return tuple(self.axis(str(name), content, f"{where}.{name}") for name, content in value.items())

    def axis(self, name: str, content: Any, where: str) -> Axis:
        if isinstance(content, list):
            if "." not in name:
                raise self.fail(where, "a list of values needs a dotted key as the axis' name, or the form keys/values")
            return Axis(name, self.values([name], content, where))
        if not isinstance(content, Mapping) or not content:
            raise self.fail(where, "expected a list of values, keys and values, or a mapping from labels to levels")
        if set(content) & set(VALUES_KEYS):
            self.keys(content, VALUES_KEYS, where)
            keys = content.get("keys")
            keys = [keys] if isinstance(keys, str) else keys
            if not isinstance(keys, list) or not keys:
                raise self.fail(where, "keys: expected a dotted key or a list of dotted keys that take the same value")
            if not isinstance(content.get("values"), list):
                raise self.fail(where, "values: expected a list")
            return Axis(name, self.values(keys, content["values"], where))
        levels = []
        for label, level in content.items():
            level_where = f"{where}.{label}"
            if level is None or isinstance(level, (str, list)):
                level = {"configs": level or []}
            self.keys(level, LEVEL_KEYS, level_where)
            levels.append(
                Level(
                    label=label_of(label),
                    configs=self.configs(level.get("configs", ()), f"{level_where}.configs"),
                    settings=self.settings(level.get("settings", {}), f"{level_where}.settings"),
                    metric=self.metric(level["metric"], f"{level_where}.metric") if "metric" in level else None,
                    budget=self.budget(level["budget"], f"{level_where}.budget") if "budget" in level else None,
                    axes=self.axes(level["axes"], f"{level_where}.axes") if "axes" in level else (),
                )
            )
        return Axis(name, tuple(levels))

    def values(self, keys: list[Any], values: list[Any], where: str) -> tuple[Level, ...]:
        for key in keys:
            self.setting_key(key, where)
        if not values:
            raise self.fail(where, "expected at least one value")
        labels = [label_of(value) for value in values]
        if len(set(labels)) < len(labels):
            raise self.fail(where, f"a value appears twice in {values}")
        return tuple(Level(label, (), dict.fromkeys(keys, value)) for label, value in zip(labels, values, strict=True))

    def report(self, value: Any, axes: tuple[Axis, ...]) -> ReportOptions:
        names = list(labels_by_axis(axes))
        self.keys(value, REPORT_KEYS, "report")
        options = {"tables_by": "task" if "task" in names else None, **value}
        for key in ("tables_by", "tune_over"):
            if options.get(key) is not None and options[key] not in names:
                raise self.fail(f"report.{key}", f"no axis {options[key]!r} (the study has: {', '.join(names)})")
        if options.get("primary", "final") not in ("final", "best"):
            raise self.fail("report.primary", f"expected final or best, got {options['primary']!r}")
        if not isinstance(options.get("stability", False), bool):
            raise self.fail("report.stability", f"expected true or false, got {options['stability']!r}")
        if options.get("regret") is not None:
            options["regret"] = self.regret(options["regret"], axes)
        return ReportOptions(**options)

    def regret(self, value: Any, axes: tuple[Axis, ...]) -> RegretOptions:
        self.keys(value, REGRET_KEYS, "report.regret")
        for key in ("settings", "grid"):
            if not isinstance(value.get(key), str):
                raise self.fail(f"report.regret.{key}", f"expected a label, got {value.get(key)!r}")
        levels = labels_by_axis(axes)
        if value["settings"] not in levels:
            raise self.fail(
                "report.regret.settings", f"no axis {value['settings']!r} (the study has: {', '.join(levels)})"
            )
        others = [label for axis, labels in levels.items() if axis != value["settings"] for label in labels]
        if value["grid"] not in others:
            raise self.fail("report.regret.grid", f"no level {value['grid']!r} (the study has: {', '.join(others)})")
        chose = value.get("chose_constants", [])
        if not isinstance(chose, list):
            raise self.fail("report.regret.chose_constants", f"expected a list of settings, got {chose!r}")
        for label in map(label_of, chose):
            if label not in levels[value["settings"]]:
                known = ", ".join(levels[value["settings"]])
                raise self.fail("report.regret.chose_constants", f"no level {label!r} (the study has: {known})")
        return RegretOptions(value["settings"], value["grid"], tuple(label_of(label) for label in chose))

    def published(self, value: Any, names: list[str]) -> tuple[Published, ...]:
        if not isinstance(value, (list, tuple)):
            raise self.fail("published", "expected a list of sources")
        return tuple(self.source(entry, f"published[{i}]", names) for i, entry in enumerate(value))

    def source(self, entry: Any, where: str, names: list[str]) -> Published:
        self.keys(entry, PUBLISHED_KEYS, where)
        for key in ("source", "measure", "rows"):
            if key not in entry:
                raise self.fail(where, f"the key {key!r} is missing")
        rows = entry["rows"]
        if not isinstance(rows, list) or not rows:
            raise self.fail(f"{where}.rows", "expected a list of {axis: label, …, value: number}")
        allowed = [*names, "what", "value"]
        for i, row in enumerate(rows):
            self.keys(row, allowed, f"{where}.rows[{i}]")
            value = row.get("value")
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise self.fail(f"{where}.rows[{i}]", f"value: expected a number, got {value!r}")
        ours = entry.get("ours", "score")
        if ours not in COMPARABLE:
            raise self.fail(f"{where}.ours", f"expected one of {', '.join(COMPARABLE)}, got {ours!r}")
        return Published(
            ours=ours,
            source=self.text(entry["source"], f"{where}.source"),
            measure=self.text(entry["measure"], f"{where}.measure"),
            note=self.text(entry.get("note", ""), f"{where}.note"),
            rows=tuple(dict(row) for row in rows),
        )
