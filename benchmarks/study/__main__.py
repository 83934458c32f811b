"""Command line of studies: ``python -m benchmarks.study configs/studies/NAME.yaml``."""

from __future__ import annotations

import argparse
import fnmatch
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.study.bookkeeping import collect, forget, has_results, missing_runs
from benchmarks.study.definition import Study
from benchmarks.study.estimate import duration, estimate_run_seconds, estimate_study_seconds, number_of
from benchmarks.study.execution import BUSY_EXIT_STATUS, check_cell, execute_run
from benchmarks.study.grid import Run, expand_cells, expand_runs
from benchmarks.study.other_data import other_data
from benchmarks.study.progress import Progress
from benchmarks.study.ray_runner import RayRunner
from benchmarks.study.results import FAILED, FINISHED, ResultsFile
from benchmarks.study.run_arguments import cli_arguments
from benchmarks.study.runner import StudyRunner, run_command
from benchmarks.study.slots import find_slots
from benchmarks.study.study_file import load_study

RESULTS_FILE = "results.sqlite"
INTERRUPTED_EXIT_STATUS = 130
OUTPUT_HELP = (
    "folder of runs and results (default: runs/studies/NAME); studies that share one execute the runs that they have "
    "in common once, and need a --report folder each"
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study",
        description="Execute a study and write its report. Started again, it executes missing and failed runs only.",
    )
    parser.add_argument("study", type=Path, help="the study's YAML file, such as configs/studies/tuning_cost.yaml")
    parser.add_argument(
        "--variant", help="name of an entry of the file's variants, whose keys replace others of the file"
    )
    parser.add_argument("--output", type=Path, help=OUTPUT_HELP)
    parser.add_argument("--jobs", type=_positive, help="runs at a time (default: one per GPU, else one per core)")
    parser.add_argument("--threads", type=_positive, help="CPU threads per run (default: 1, or cores shared by GPUs)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where runs execute")
    parser.add_argument(
        "--launcher",
        choices=("processes", "ray"),
        default="processes",
        help="processes on this machine (default), or tasks of the Ray cluster that RAY_ADDRESS names",
    )
    parser.add_argument("--no-retry", action="store_true", help="do not repeat failed runs")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print the grid and an estimate of time; execute nothing")
    what.add_argument(
        "--check", action="store_true", help="let cli.py check the arguments of every cell; execute nothing"
    )
    what.add_argument("--emit-commands", action="store_true", help="print one command per missing run, for a launcher")
    what.add_argument("--print-cli", action="store_true", help="print the python cli.py command behind each run")
    what.add_argument("--report-only", action="store_true", help="write the report from the runs finished so far")
    what.add_argument(
        "--again",
        metavar="PATTERN",
        help="delete the results of finished runs whose name matches ('*SaLSA*', '* seed 0') and execute these again",
    )
    what.add_argument("--run", metavar="ID", help="execute this one run in this process")
    parser.add_argument(
        "--report", type=Path, help="folder of report.md, its figures and CSV files (default: OUTPUT/report)"
    )
    parser.add_argument("--attempt", type=_positive, default=1, help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 when all is done, 1 with failed runs, 2 for bad input, 130 when interrupted.
    """
    options = build_parser().parse_args(arguments)
    try:
        return _main(options)
    except (ValueError, OSError) as error:
        print(f"study: error: {error}", file=sys.stderr)
        return 2


def _main(options: argparse.Namespace) -> int:
    study = load_study(options.study, options.variant)
    runs = expand_runs(study)
    output = options.output or Path("runs", "studies", study.name)
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: {output} is no folder")
    if options.run:
        return _execute_one(study, runs, output, options.run, options.attempt)

    if options.check:
        return _check(study, output)
    if options.print_cli:
        for run in runs:
            print(shlex.join(["python", "cli.py", *cli_arguments(run, output)]))
        return 0
    looks = options.dry_run or options.emit_commands or (options.report_only and not has_results(runs, output))
    with ResultsFile(output / RESULTS_FILE, in_memory=looks) as store:
        collect(runs, output, store)
        if options.again is not None:
            forget(_finished_runs(runs, store, options.again), output, store)
        missing = missing_runs(runs, store, retry=not options.no_retry)
        if not options.report_only:
            _warn_of_other_data([run for run in runs if run not in missing], output)
        if options.emit_commands:
            for run in missing:
                print(shlex.join(run_command(study, run, output, options.variant)))
            return 0
        if options.dry_run:
            _print_grid(study, runs, missing, store, len(find_slots(options.jobs, options.threads, options.device)))
            return 0
        if missing and not options.report_only:
            for run in missing:
                cli_arguments(run, output)  # raises for settings that cannot be resolved, before any run starts
            execute = _execute_on_ray if options.launcher == "ray" else _execute_here
            if not execute(study, options, runs, missing, output, store):
                print("interrupted; start again to go on where it stopped", file=sys.stderr)
                return INTERRUPTED_EXIT_STATUS
        return _report(study, runs, store, output, options.report)


def _finished_runs(runs: Sequence[Run], store: ResultsFile, pattern: str) -> list[Run]:
    known = store.results()
    finished = [run for run in runs if run.id in known and known[run.id].status == FINISHED]
    matching = [run for run in finished if fnmatch.fnmatchcase(run.name, pattern)]
    if not matching:
        raise ValueError(f"--again {pattern!r} matches no finished run; names are such as {runs[0].name!r}")
    return matching


def _warn_of_other_data(runs: Sequence[Run], output: Path) -> None:
    for (then, now), count in other_data(runs, output).items():
        print(
            f"study: warning: {number_of(count, 'result')} kept from data_dir {then or 'null'}, which is now "
            f"{now or 'null'} (--again repeats finished runs)",
            file=sys.stderr,
        )


def _execute_one(study: Study, runs: Sequence[Run], output: Path, wanted: str, attempt: int) -> int:
    found = [run for run in runs if run.id == wanted]
    if not found:
        raise ValueError(
            f"{study.path}: no run {wanted} (the study or one of its configs has changed; --dry-run lists)"
        )
    try:
        result = execute_run(found[0], output, attempt)
    except BlockingIOError:
        print(f"study: run {wanted} is being executed by another process", file=sys.stderr)
        return BUSY_EXIT_STATUS
    if result.status == FAILED:
        print(f"study: run {wanted} failed: {result.reason}", file=sys.stderr)
        return 1
    return 0


def _execute_here(
    study: Study,
    options: argparse.Namespace,
    runs: Sequence[Run],
    missing: Sequence[Run],
    output: Path,
    store: ResultsFile,
) -> bool:
    slots = find_slots(options.jobs, options.threads, options.device)
    _announce(study, runs, missing, store, len(slots))
    progress = Progress(len(runs), len(runs) - len(missing))
    runner = StudyRunner(study, options.variant, output, store, slots, progress)
    try:
        finished = runner.execute(missing)
    finally:
        progress.close()
    if runner.skipped:
        print(
            f"{len(runner.skipped)} runs are being executed by another process; start again for them", file=sys.stderr
        )
    return finished


def _execute_on_ray(
    study: Study,
    options: argparse.Namespace,
    runs: Sequence[Run],
    missing: Sequence[Run],
    output: Path,
    store: ResultsFile,
) -> bool:
    if options.jobs is not None:
        raise ValueError("--jobs: a Ray cluster executes as many runs as it has cores (--threads each) or GPUs")
    progress = Progress(len(runs), len(runs) - len(missing))
    try:
        runner = RayRunner(study, output, store, options.threads or 1, options.device, progress)
        _announce(study, runs, missing, store, runner.runs_at_a_time)
        return runner.execute(missing)
    finally:
        progress.close()


def _announce(study: Study, runs: Sequence[Run], missing: Sequence[Run], store: ResultsFile, at_a_time: int) -> None:
    estimate = estimate_study_seconds(study, missing, store.results([run.id for run in runs]), max(1, at_a_time))
    about = f", about {duration(estimate)}" if estimate is not None else ""
    print(f"{study.name}: {len(missing)} runs to do, {at_a_time} at a time{about}", file=sys.stderr)


def _check(study: Study, output: Path) -> int:
    cells = expand_cells(study)
    complaints = [(cell.name, complaint) for cell in cells if (complaint := check_cell(cell, output))]
    for name, complaint in complaints:
        print(f"{name}: {complaint}", file=sys.stderr)
    print(f"{len(cells) - len(complaints)} of {len(cells)} cells can be run")
    return 2 if complaints else 0


def _print_grid(study: Study, runs: Sequence[Run], missing: Sequence[Run], store: ResultsFile, slots: int) -> None:
    known = store.results([run.id for run in runs])
    cells = expand_cells(study)
    names = study.axis_names()
    header = [*names, "seeds", "finished", "failed", "estimate per run"]
    rows = []
    for cell in cells:
        of_cell = [run for run in runs if run.cell == cell]
        status = [known[run.id].status for run in of_cell if run.id in known]
        seconds = estimate_run_seconds(study, of_cell[0], known)
        rows.append(
            [
                *(cell.labels.get(name, "") for name in names),
                str(len(of_cell)),
                str(status.count(FINISHED)),
                str(status.count(FAILED)),
                "unknown" if seconds is None else duration(seconds),
            ]
        )
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())
    total = estimate_study_seconds(study, missing, known, slots)
    grid = f"{number_of(len(cells), 'cell')}, {number_of(len(study.seeds), 'seed')} each"
    print(f"\n{grid}: {number_of(len(runs), 'run')}, {len(missing)} to do")
    took = "unknown before the first run has finished" if total is None else f"about {duration(total)}"
    print(f"estimate: {took}, {slots} at a time")


def _report(study: Study, runs: Sequence[Run], store: ResultsFile, output: Path, folder: Path | None) -> int:
    results = store.results([run.id for run in runs])
    failed = [result for result in results.values() if result.status == FAILED]
    if len(failed) == len(results):
        reasons = f": {failed[0].reason}" if failed else ""
        print(f"study: no finished run, no report{reasons}", file=sys.stderr)
        return 1
    try:
        from benchmarks.study.report import write_report
    except ModuleNotFoundError as error:
        raise ValueError(f"the report needs {error.name}: pip install -e '.[studies]'") from None
    print(write_report(study, runs, results, output, folder or output / "report"))
    return 1 if failed else 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
