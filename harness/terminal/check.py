"""`harness check`: what every arm costs, as tables or as one document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from harness.errors import InputError, Problem
from harness.matching import load_study
from harness.spec.arm import Arm, Matched
from harness.spec.cost import Cost
from harness.spec.documents import kind_of, load_experiment
from harness.spec.surroundings import teachers_of
from harness.spec.yaml_tree import read_document
from harness.terminal.columns import Columns
from harness.terminal.tables import table
from harness.terminal.words import count

MOST_REMARKS = 20


@dataclass(frozen=True)
class Checked:
    """One file and what is in it: an ablation's arms, or an experiment as the only one."""

    file: Path
    arms: tuple[Arm, ...]
    remarks: tuple[str, ...] = ()
    is_study: bool = False


def check_and_show(files: Sequence[Path], overrides: Sequence[str], console: Console, *, as_json: bool) -> None:
    """Read all files, count every arm and print them.

    Raises:
        InputError: all mistakes of all files; or, where there are none, all arms over their budgets.
    """
    checked = read(files, overrides)
    costs = counted(checked)
    if as_json:
        print(json.dumps(to_json(checked, costs), indent=2, allow_nan=False))
    else:
        print_check(checked, costs, console)


def read(files: Sequence[Path], overrides: Sequence[str]) -> list[Checked]:
    """Every file, expanded and solved; the mistakes of all of them are told at once."""
    problems: list[Problem] = []
    checked: list[Checked] = []
    for file in files:
        try:
            document = read_document(file)
            if kind_of(document) == "ablation":
                study = load_study(document, overrides)
                checked.append(Checked(file, study.arms, study.remarks, is_study=True))
            else:
                spec = load_experiment(document, overrides)
                checked.append(Checked(file, (Arm(spec.name, {}, spec),)))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return checked


def counted(checked: Sequence[Checked]) -> list[Cost]:
    """The cost of every arm of every file, in order; their teachers are held to the budget, too."""
    from harness.training.guard import check_budget  # torch, which a mistake in a file need not wait for

    specs = [arm.spec for one in checked for arm in one.arms]
    places = [f"{one.file}: {arm.name}" for one in checked for arm in one.arms]
    teachers = teachers_of(specs)
    costs = check_budget([*specs, *teachers], [*places, *(f"teacher {spec.name}" for spec in teachers)])
    return costs[: len(specs)]


def to_json(checked: Sequence[Checked], costs: Sequence[Cost]) -> dict[str, Any]:
    """The document of `harness check --json`."""
    rows = [
        {
            "name": arm.name,
            "file": str(one.file),
            "trainable_parameters": cost.trainable_parameters,
            "max_parameters": arm.spec.guard.max_parameters,
            "macs": cost.macs,
            **({"match": asdict(arm.matched)} if arm.matched else {}),
        }
        for one, costs_of_one in _each(checked, costs)
        for arm, cost in zip(one.arms, costs_of_one, strict=True)
    ]
    return {"arms": rows, "remarks": [remark for one in checked for remark in one.remarks]}


def print_check(checked: Sequence[Checked], costs: Sequence[Cost], console: Console) -> None:
    """A table, below it which arms were merged; of several files with studies among them, one table a file."""
    if len(checked) == 1 or not any(one.is_study for one in checked):
        console.print(check_table([arm for one in checked for arm in one.arms], costs))
        _print_remarks([remark for one in checked for remark in one.remarks], console)
        return
    for number, (one, costs_of_one) in enumerate(_each(checked, costs)):
        console.print(f"{'' if number == 0 else chr(10)}{one.file}", style="bold", markup=False, soft_wrap=True)
        console.print(check_table(one.arms, costs_of_one))
        _print_remarks(one.remarks, console)


def _each(checked: Sequence[Checked], costs: Sequence[Cost]) -> Iterator[tuple[Checked, Sequence[Cost]]]:
    """Each file with the costs of its arms."""
    begin = 0
    for one in checked:
        end = begin + len(one.arms)
        yield one, costs[begin:end]
        begin = end


def _print_remarks(remarks: Sequence[str], console: Console) -> None:
    for line in shown_remarks(remarks):
        console.print(line, markup=False, soft_wrap=True)


def check_table(arms: Sequence[Arm], costs: Sequence[Cost]) -> Columns:
    """One row an arm; with the value that `match` found and the parameters that remain, where there is one."""
    fields = list(dict.fromkeys(arm.matched.field for arm in arms if arm.matched))
    found = ("/".join(field.rpartition(".")[2] for field in fields), "remainder") if fields else ()
    numbers = (*found[:1], "parameters", *found[1:], "limit", "headroom", "MACs")
    made = table("name", *numbers, right=numbers)
    for arm, cost in zip(arms, costs, strict=True):
        limit, parameters = arm.spec.guard.max_parameters, cost.trainable_parameters
        value = [str(arm.matched.value) if arm.matched else ""] if found else []
        rest = [remainder(arm.matched)] if found else []
        headroom = None if limit is None else limit - parameters
        made.add_row(
            escape(arm.name), *value, count(parameters), *rest, count(limit), count(headroom), count(cost.macs)
        )
    return made


def remainder(matched: Matched | None) -> str:
    """Parameters above (+) or below (−) those of the base."""
    return f"{matched.remainder:+,}".replace("-", "−") if matched else ""


def shown_remarks(remarks: Sequence[str]) -> list[str]:
    """The remarks; of very many the first."""
    hidden = len(remarks) - MOST_REMARKS
    return [*remarks[:MOST_REMARKS], *([f"and {hidden:,} more remarks: --json has them"] if hidden > 0 else [])]
