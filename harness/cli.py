"""The `harness` command: thin; each command parses, calls one room and shows what comes back.

Heavy imports (torch, SciPy) stand inside the commands that need them, so that `--help` is quick.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

import typer

from harness.errors import CheckFailed, HarnessError, InputError, Interrupted, RunFailed, printable

if TYPE_CHECKING:
    from rich.console import Console

    from harness.options import RunOptions

Function = TypeVar("Function", bound=Callable[..., Any])

app = typer.Typer(
    help="Which part of a network under a parameter budget earns its place? Train it, ablate it, report it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


data_app = typer.Typer(help="Data sets, before they are needed.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")


OLDER_MODES = {"dryrun": "offline", "run": "online"}
"""Words that wandb takes for its modes as well."""


def _print_version(asked: bool) -> None:
    if asked:
        import harness

        print(f"harness {harness.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """`--debug` is taken out of the command line by `main`, so that it may stand anywhere."""
    if (mode := os.environ.get("WANDB_MODE")) in OLDER_MODES:
        os.environ["WANDB_MODE"] = OLDER_MODES[mode]


# Bounds far beyond any machine, so that a mistyped number can neither overflow nor fill the memory.
MOST_JOBS = 100_000
MOST_THREADS = 4096

File = Annotated[Path, typer.Argument(help="YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("-o", "--override", metavar="PATH=VALUE", help="Set a field, e.g. model.width=32; repeatable."),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, max=2**63 - 1, help="In place of the file's seed.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, mps, cuda or cuda:<index>.")]
DataDir = Annotated[Path, typer.Option("--data-dir", envvar="HARNESS_DATA_DIR", help="Where data sets lie.")]
RunsDir = Annotated[Path, typer.Option("--runs-dir", envvar="HARNESS_RUNS_DIR", help="Where runs are kept.")]
WandbMode = Annotated[
    Literal["offline", "online", "disabled"],
    typer.Option("--wandb", envvar="WANDB_MODE", help="Weights & Biases mirror."),
]
WandbProject = Annotated[str | None, typer.Option("--wandb-project", envvar="WANDB_PROJECT", help="W&B project.")]
WandbEntity = Annotated[str | None, typer.Option("--wandb-entity", envvar="WANDB_ENTITY", help="W&B user or team.")]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        "--time-limit", metavar="[H:]MM:SS", help="Save and end with exit code 75 after this long, e.g. 3:50:00."
    ),
]
CheckpointEvery = Annotated[
    float,
    typer.Option(
        "--checkpoint-every", min=0, metavar="SECONDS", help="Seconds between checkpoints; 0: after each epoch."
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Run again; what was there is kept aside.")]
AnyDevice = Annotated[bool, typer.Option("--any-device", help="Accept results of another device type or precision.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, max=MOST_THREADS, help="CPU threads of each run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


def command(function: Function, group: typer.Typer = app) -> Function:
    """Register a command; Ctrl-C outside training becomes exit 130 with a message."""

    @functools.wraps(function)
    def guarded(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except KeyboardInterrupt:
            trains = function.__name__ in ("run_command", "ablate_command")
            raise Interrupted(
                f"at once; {_again()} to go on from what was saved, if anything was" if trains else "interrupted"
            ) from None

    group.command(name=function.__name__.removesuffix("_command"))(guarded)
    return function


def looking(function: Function) -> Function:
    """For a command that looks and ends: Python's cycle collector rests meanwhile.

    All that such a command holds it needs until its end, and of 10,000 arms the collector would walk over a million
    objects again and again: a third of the time of their plan.
    """

    @functools.wraps(function)
    def uncollected(*arguments: Any, **options: Any) -> Any:
        gc.disable()
        try:
            return function(*arguments, **options)
        finally:
            gc.enable()

    return cast("Function", uncollected)


# --- training ----------------------------------------------------------------------------------


@command
def run_command(
    file: File,
    override: Overrides = None,
    seed: Seed = None,
    device: Device = "auto",
    data_dir: DataDir = Path("data"),
    runs_dir: RunsDir = Path("runs"),
    wandb: WandbMode = "offline",
    wandb_project: WandbProject = None,
    wandb_entity: WandbEntity = None,
    time_limit: TimeLimit = None,
    checkpoint_every: CheckpointEvery = 60.0,
    fresh: Fresh = False,
    any_device: AnyDevice = False,
    threads: Threads = None,
    test: Annotated[
        bool, typer.Option("--test", help="Under protocol holdout: read the test set now; it is counted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train one experiment: guard, train, evaluate, track, record."""
    from harness.spec.documents import load_experiment

    spec = load_experiment(file, override or [])
    console = _console(stderr=as_json)
    options = _run_options(locals())
    if options.wandb != "disabled":
        from harness.tracking import mirror_process

        mirror_process.start()  # it imports wandb while this process imports torch
    with console.status("starting") if console.is_terminal else _nothing():
        from harness import runner
        from harness.terminal.live import RunDisplay
        from harness.training.guard import check_budget
    if test:
        runner.check_readable(spec.data.protocol)
    check_budget([spec], [str(file)])
    with RunDisplay(console) as display:
        record = runner.run(spec, seed, options, display)
        if test:
            record = runner.read_test_set(record.run_id, options)
    if as_json:
        print(record.model_dump_json(indent=2))
    else:
        from harness.terminal.summary import print_run

        print_run(record, options.runs_dir, console)


@command
def ablate_command(
    file: File,
    override: Overrides = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            max=MOST_JOBS,
            help="Runs at once, in all; default 1, or one for each of --devices.",
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option("--devices", metavar="0-3", help="GPUs to share the runs out among, e.g. 0-3 or 0,2."),
    ] = None,
    executor: Annotated[
        Literal["local", "ray", "slurm"], typer.Option("--executor", help="What does the runs.")
    ] = "local",
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm",
            metavar="KEY=VALUE",
            help="What each run asks Slurm for: partition, account, qos, constraint, time, grace, gpus, cpus, memory.",
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Use this many seeds; what is done stays.")
    ] = None,
    device: Device = "auto",
    data_dir: DataDir = Path("data"),
    runs_dir: RunsDir = Path("runs"),
    wandb: WandbMode = "offline",
    wandb_project: WandbProject = None,
    wandb_entity: WandbEntity = None,
    time_limit: TimeLimit = None,
    checkpoint_every: CheckpointEvery = 60.0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed runs again.")] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")] = False,
    fresh: Fresh = False,
    any_device: AnyDevice = False,
    threads: Threads = None,
    output: Annotated[Path | None, typer.Option("--output", help="The report; default reports/<study>.md.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run what is missing of a study, then write its report."""
    from harness.matching import load_study

    study = load_study(file, override or [], seeds)
    if output:
        from harness.reporting import stem_of

        stem_of(output)
    from harness.tracking.atomic import check_writable

    output = output or Path("reports") / f"{study.name}.md"
    check_writable(output)  # before anything is trained
    console = _console(stderr=as_json)
    from harness.options import AblateOptions
    from harness.study.devices import parse_devices
    from harness.study.local import start_servers
    from harness.study.slurm_options import parse_slurm

    if slurm and executor != "slurm":
        raise InputError("--slurm is for --executor slurm", where="--slurm", fix="add --executor slurm")
    options = AblateOptions(
        _run_options(locals()),
        jobs,
        retry_failed,
        fail_fast,
        executor,
        devices=() if devices is None else parse_devices(devices),
        slurm=parse_slurm(slurm or []),
    )
    if executor == "local":
        start_servers(tracked=options.run.wandb != "disabled")  # while this one imports
    from harness.terminal.study import ablate_and_show

    outcome = ablate_and_show(study, options, console)
    study = outcome.plan.study
    paths = _write_report(study, runs_dir, output)
    if as_json:
        _print_json(_plan_document(outcome.plan))
    else:
        from harness.terminal.study import print_outcome

        print_outcome(study, outcome, paths, runs_dir, console)
    if outcome.failures:
        names = ", ".join(f"{run.arm.name} seed {run.seed}" for run in outcome.failures)
        raise RunFailed(f"{len(outcome.failures)} of {len(outcome.plan.runs)} runs failed: {names}")
    if left := len(outcome.plan.runs) - outcome.plan.count("done"):
        what = f"the study is not complete: {left} of its runs are not done"
        raise RunFailed(
            f"{what}: {outcome.hindrance}"
            if outcome.hindrance
            else f"{what}; {options.run.continue_with} goes on with them"
        )


# --- looking -----------------------------------------------------------------------------------


@command
@looking
def check_command(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Experiment or ablation files.", show_default=False)
    ] = None,
    override: Overrides = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of both kinds of file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Validate files and count parameters and MACs of every arm; trains nothing, needs no data."""
    if schema:
        from harness.spec.schema import json_schema

        _print_json(json_schema())
        return
    if not files:
        raise InputError("no file is named", fix="harness check experiments/baseline.yaml")
    from harness.terminal.check import check_and_show

    check_and_show(files, override or [], _console(), as_json=as_json)


@command
@looking
def plan_command(
    file: File,
    override: Overrides = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, max=MOST_JOBS, help="Runs at once, for the expected time.")
    ] = 1,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Plan with this many seeds.")] = None,
    device: Annotated[str, typer.Option("--device", help="Whose time is expected: auto, cpu, mps, cuda.")] = "auto",
    measure: Annotated[
        bool, typer.Option("--measure", help="Time a few steps on the device; no data is needed.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Tell of each run that is to do why it was not taken from the store.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Show every arm, however many there are.")] = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Arms x seeds of a study: what differs, what it costs, what is done, what these seeds can show."""
    from harness.matching import load_study

    study = load_study(file, override or [], seeds)
    from harness.terminal.planning import plan_and_show

    shown = {"measured": measure, "explained": explain, "every": every, "as_json": as_json}
    plan_and_show(study, runs_dir, device, jobs, _console(), **shown)


@command
@looking
def report_command(
    what: Annotated[
        list[str] | None, typer.Argument(help="An ablation file, or runs; nothing: every run.", show_default=False)
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: reports/<study>.md.")] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help="md, html, csv, json, tex; several with commas. Default: the output's, else md."),
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="As `ablate` was given.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--override", metavar="PATH=VALUE", help="As `ablate` was given.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit 1 where the file is not what the records give.")] = False,
    evidence: Annotated[
        Path | None, typer.Option("--evidence", help="Copy what the report needs into this folder.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Where the images are: adds pictures.")] = None,
    runs_dir: RunsDir = Path("runs"),
) -> None:
    """The report, from the records alone."""
    from harness.terminal.report import make_report

    make_report(
        what or [],
        runs_dir,
        output,
        format.split(",") if format else None,
        _console(),
        seeds,
        override or [],
        check,
        evidence,
        data_dir,
    )


@command
@looking
def runs_command(
    run: Annotated[
        str | None, typer.Argument(help="A run id, its beginning, or a run's folder.", show_default=False)
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="FIELD=VALUE", help="E.g. status=failed, arm=no_se.")
    ] = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="What may be deleted: runs set aside, leftovers; failed runs with --where status=failed.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --prune: delete it.")] = False,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs, show one record in full, or delete what is of no use any more."""
    if prune:
        if run:
            raise InputError("--prune is for the whole runs folder", where=run, fix="leave the run out")
        from harness.terminal.prune import prune_and_show

        prune_and_show(runs_dir, where, _console(), yes=yes, as_json=as_json)
        return
    if yes:
        raise InputError("--yes is for --prune", where="--yes")
    from harness.tracking.select import as_it_stands, find_run, matching, standing
    from harness.tracking.store import Store

    store = Store(runs_dir)
    console = _console()
    if run:
        record = as_it_stands(*find_run(store, run))
        print(record.model_dump_json(indent=2)) if as_json else console.print_json(record.model_dump_json(), indent=2)
        return
    records = matching(standing(store), where)
    for problem in store.problems:
        print(f"left out: {problem}", file=sys.stderr)
    if as_json:
        _print_json({"runs": [record.model_dump(mode="json") for record in records]})
        return
    from harness.terminal.tables import runs_table

    if records:
        console.print(runs_table(records, store))
    else:
        console.print(f"no runs in {runs_dir}" + (f" with {where}" if where else ""), markup=False, soft_wrap=True)


@command
@looking
def diff_command(
    first: Annotated[str, typer.Argument(metavar="A", help="A run or an experiment file.", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.", show_default=False)],
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Only what differs between two specs and their results: runs, their folders, or experiment files."""
    from harness.terminal.diff import diff_and_show

    diff_and_show(first, second, runs_dir, _console(), as_json=as_json)


@command
def sync_command(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="Run ids, their beginnings, or folders.", show_default=False),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every run that was not made with --wandb disabled.")] = False,
    wandb_project: Annotated[
        str | None, typer.Option("--wandb-project", help="In place of the project a run was made for.")
    ] = None,
    wandb_entity: Annotated[
        str | None, typer.Option("--wandb-entity", help="In place of the user or team a run was made for.")
    ] = None,
    time_limit: Annotated[
        str, typer.Option("--time-limit", metavar="[H:]MM:SS", help="Give a run up after this long.")
    ] = "5:00",
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Bring offline runs to Weights & Biases, and prove that they arrived."""
    from harness.terminal.sync import Way, sync_and_show

    way = Way(_seconds(time_limit), wandb_project, wandb_entity)
    sync_and_show(runs or [], every, runs_dir, way, as_json=as_json)


@command
def dashboard_command(
    file: File,
    push: Annotated[bool, typer.Option("--push", help="Save it, as the view of last time.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FOLDER", help="Where its files go; default reports/.")
    ] = None,
    wandb_project: WandbProject = None,
    wandb_entity: WandbEntity = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="As `ablate` was given.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--override", metavar="PATH=VALUE", help="As `ablate` was given.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """The Weights & Biases workspace of a study, from its file and its records."""
    from harness.terminal.dashboard import make_dashboard

    make_dashboard(
        file,
        runs_dir,
        _console(),
        push=push,
        output=output,
        project=wandb_project,
        entity=wandb_entity,
        seeds=seeds,
        overrides=override or [],
        as_json=as_json,
    )


@command
def predict_command(
    run: Annotated[
        str, typer.Argument(help="A run id, its beginning, or a run's folder.", metavar="RUN", show_default=False)
    ],
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES", help="A folder of images, an image, a .npy array, or a CIFAR pickle.", show_default=False
        ),
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A CSV file; default: standard output.")] = None,
    names: Annotated[bool, typer.Option("--names", help="Class names instead of numbers.")] = False,
    weights: Annotated[
        Literal["final", "best"],
        typer.Option("--weights", help="After the last epoch, or with the lowest validation loss."),
    ] = "final",
    flip_tta: Annotated[bool, typer.Option("--flip-tta", help="Mean over each image and its mirror image.")] = False,
    resize: Annotated[bool, typer.Option("--resize", help="Scale images of another size, cut out the middle.")] = False,
    device: Device = "auto",
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Labels for images, by one run's weights, as lines of ID,Labels."""
    console = _console(stderr=True)
    with console.status("starting") if console.is_terminal else _nothing():
        from harness import predict
    if output:
        from harness.tracking.atomic import check_writable

        check_writable(output)
    with console.status("predicting") if console.is_terminal else _nothing():
        predictions = predict.predict(
            run, images, runs_dir, weights=weights, device=device, flip_tta=flip_tta, resize=resize
        )
    text = predict.as_csv(predictions, names=names)
    if output:
        predict.write(text, output)
    if as_json:
        _print_json({"predictions": [vars(prediction) for prediction in predictions]})
    elif output:
        print(f"wrote {output}: {len(predictions):,} images")
    else:
        print(text, end="")


@functools.partial(command, group=data_app)
def fetch_command(
    name: Annotated[str, typer.Argument(help="cifar10, cifar100, digits, or an experiment file.")] = "cifar10",
    data_dir: DataDir = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Download and verify a data set beforehand."""
    from harness.terminal import fetch

    found = fetch.fetch(name, data_dir)
    _print_json(fetch.as_json(found)) if as_json else print(fetch.sentence(found))


@command
def doctor_command(data_dir: DataDir = Path("data"), runs_dir: RunsDir = Path("runs"), as_json: AsJson = False) -> None:
    """What is installed, which devices and precisions there are, where data and runs are, W&B's state."""
    from harness.doctor import examine

    findings = examine(data_dir, runs_dir)
    if as_json:
        _print_json(findings)
        return
    from harness.terminal.summary import print_findings

    print_findings(findings, _console())


# --- shared ------------------------------------------------------------------------------------


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, emoji=False)


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, allow_nan=False))


def _run_options(given: dict[str, Any]) -> RunOptions:
    """The command's own options (its `locals()`), by name."""
    from harness.options import RunOptions

    names = (
        "device",
        "data_dir",
        "runs_dir",
        "wandb",
        "wandb_project",
        "wandb_entity",
        "checkpoint_every",
        "fresh",
        "any_device",
        "threads",
    )
    limit = None if given["time_limit"] is None else _seconds(given["time_limit"])
    return RunOptions(**{name: given[name] for name in names}, time_limit=limit, continue_with=_again())


def _again() -> str:
    """The command that goes on where this one was stopped."""
    words = ["harness", *(argument for argument in sys.argv[1:] if argument != "--fresh")]
    return f"`{shlex.join(words)}`"


def _seconds(text: str) -> float:
    """ "3:50:00", "50:00" or "90" (seconds)."""
    parts = text.split(":")
    if len(parts) > 3 or not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
        raise InputError(f"{text!r} is no time", where="--time-limit", fix="write H:MM:SS, MM:SS or seconds")
    return float(sum(int(part) * 60**place for place, part in enumerate(reversed(parts))))


def _write_report(study: Any, runs_dir: Path, output: Path) -> list[Path]:
    from harness import reporting
    from harness.tracking.store import Store

    store = Store(runs_dir)
    report = reporting.build(study, store)
    for problem in store.problems:
        print(f"left out: {problem}", file=sys.stderr)
    return reporting.write(report, output, [reporting.format_of(output)])


def _plan_document(plan: Any) -> dict[str, Any]:
    from harness.study.plan import to_json

    return to_json(plan)


def show_error(error: HarnessError) -> None:
    """On stderr: one message a problem, each with what, where and what would be right."""
    problems = error.problems if isinstance(error, InputError) else (printable(str(error)),)
    for problem in problems:
        kind = (
            "stopped"
            if error.exit_code in (75, 130)
            else "failed"
            if isinstance(error, CheckFailed | RunFailed)
            else "error"
        )
        print(f"{kind}: {problem}", file=sys.stderr)


def main() -> None:
    """The console script. `--debug` may stand anywhere on the command line."""
    debug = "--debug" in sys.argv[1:]
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except HarnessError as error:
        _end_at_once()
        if debug:
            traceback.print_exc()
        show_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `harness runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    finally:
        _end_at_once()


def _end_at_once() -> None:
    """All is saved and told: one more Ctrl-C ends the process, without a trace of what libraries put away meanwhile."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
