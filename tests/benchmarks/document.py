"""The results of the benchmarks as a document: one section a part, ratios first.

python -m tests.benchmarks.document reports/bench.json reports/bench.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Sequence[str]]


def headline(results: dict[str, Any]) -> str:
    """The ratios, a line each, for the terminal."""
    lines = [f"{what:<66} {value}" for what, value in _summary(results)]
    return "\n".join(lines)


def markdown(results: dict[str, Any]) -> str:
    """The whole document."""
    parts = [_intro(results)]
    for part, write in SECTIONS.items():
        if part in results:
            parts.append(write(results[part]))
    return "\n\n".join(parts).rstrip() + "\n"


def _intro(results: dict[str, Any]) -> str:
    machine = results["machine"]
    bf16 = "with" if machine["cpu_computes_bf16"] else "without"
    where = f"{machine['cores']} cores of {machine['cpu']} ({bf16} bf16), torch {machine['torch']}"
    text = (
        f"# Benchmarks\n\nMeasured with `make bench` on {where}, Python {machine['python']}{_card(results)}. Arms take "
        "turns within one run; a ratio is the median over at least five rounds of the ratios within a round, where a "
        "section says nothing else. Nothing here passes or fails by time.\n\n"
    )
    return text + _table(["what", "measured"], _summary(results))


def _card(results: dict[str, Any]) -> str:
    return f", and one {results['gpu']['card']}" if "gpu" in results else ", no GPU"


def _summary(results: dict[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if step := results.get("step"):
        precision = step["networks"]["baseline"]["precision"]
        rows += [
            (f"a step of the engine ({precision}) against the plain loop (fp32)", _times(step["ratio_default"])),
            ("the same at equal precision (fp32)", _times(step["ratio_equal_precision"])),
            (f"its overhead over the best step by hand ({precision})", _percent(step["overhead"])),
        ]
    if pipeline := results.get("input"):
        rows += [
            ("input pipeline against one process of Pillow transforms", _times(pipeline["ratio"])),
            ("its share of the small network's step", _percent(pipeline["share_of_step"])),
        ]
    if tracking := results.get("tracking"):
        rows.append(("tracking's share of an epoch of the small network", _percent(tracking["share_of_epoch"], 3)))
    if study := results.get("study"):
        rows += [
            ("a study against two processes with default threads", _times(study["ratio_default_threads"])),
            ("a study against two processes with one thread", _times(study["ratio_one_thread"])),
        ]
    if gpu := results.get("gpu"):
        rows += [
            (f"an epoch of the published network, {name}", _seconds(row["seconds_per_epoch"]))
            for name, row in gpu["ladder"].items()
        ]
    if start := results.get("start"):
        rows += [
            ("CPU time of `harness --help`", _seconds(start["help_cpu_seconds"])),
            ("from the command to the first step, for the first time", _seconds(start["first_step_seconds"])),
            ("and every time after that", _seconds(start["first_step_again_seconds"])),
            ("largest memory of the small network's run", _memory(start["run_max_rss_bytes"])),
        ]
    return rows


def _step(step: dict[str, Any]) -> str:
    text = (
        "## A training step (a)\n\nThe plain loop is what most people write: torchvision's transforms on Pillow images "
        "in a `DataLoader`, fp32, default memory format, SGD as it comes, `.item()` every step. The step by hand has "
        "resident images, channels_last, autocast, a fused SGD and no `.item()`. Batch 128, published recipe, dropout "
        "off; all arms see the same images in the same batches, and their losses agree.\n"
    )
    for name, found in step["networks"].items():
        rows = [
            (
                arm,
                f"{1e3 * times['median']:,.1f}",
                f"{1e3 * times['minimum']:,.1f}",
                f"{times['images_per_second']:,.0f}",
                f"{100 * found['loss_differences'][arm]:.3f} %",
            )
            for arm, times in found["arms"].items()
        ]
        text += (
            f"\n### The {name} network\n\nEngine at {found['precision']} against the plain loop: "
            f"**{_times(found['ratio_default'])}**; at fp32: **{_times(found['ratio_equal_precision'])}**; overhead "
            f"over the step by hand: **{_percent(found['overhead'])}**.\n\n"
        )
        text += _table(["arm", "ms a step, median", "minimum", "images/s", "loss differs by at most"], rows) + "\n"
    return text.rstrip()


def _pipeline(found: dict[str, Any]) -> str:
    rows = [
        ("the engine, its draws and CutMix included", f"{found['engine_images_per_second']:,.0f}"),
        ("one process of Pillow transforms, without CutMix", f"{found['loader_images_per_second']:,.0f}"),
    ]
    batch, step = found["batch_seconds"]["median"], found["step_seconds"]["median"]
    return (
        f"## The input pipeline (b)\n\n**{_times(found['ratio'])}**; a batch takes {1e3 * batch:.2f} ms, "
        f"**{_percent(found['share_of_step'])}** of the small network's step of {1e3 * step:.1f} ms.\n\n"
        + _table(["pipeline", "images/s"], rows)
    )


def _tracking(found: dict[str, Any]) -> str:
    return (
        f"## Tracking (c)\n\nJournal with fsync, record and W&B offline take "
        f"{1e3 * found['tracking_seconds']['median']:.1f} ms an epoch (median of 60; at most "
        f"{1e3 * found['tracking_seconds']['maximum']:.1f}) and {1e3 * found['mirror_cpu_seconds']:.1f} ms of CPU time "
        f"in the mirror's own process: **{_percent(found['share_of_epoch'], 3)}** of the small network's "
        f"{found['epoch_seconds']:.1f} s. Training waits {_seconds(found['open_seconds'])} for the mirror to open "
        f"(it opens beside it) and {_seconds(found['finish_seconds'])} at the end, for it to be closed and read back."
    )


def _start(found: dict[str, Any]) -> str:
    return (
        "## Start (d)\n\n`harness run experiments/small.yaml` at a terminal, W&B offline, until a step is shown as "
        f"done: **{_seconds(found['first_step_seconds'])}** when nothing is decoded yet, "
        f"**{_seconds(found['first_step_again_seconds'])}** every time after that (medians of 3). A whole run of one "
        f"epoch takes {_seconds(found['run_seconds_one_epoch'])} and at most "
        f"**{_memory(found['run_max_rss_bytes'])}** of memory, of which torch itself takes about 0.66 GB. `harness "
        f"--help` takes {_seconds(found['help_cpu_seconds'])} of CPU time."
    )


def _study(found: dict[str, Any]) -> str:
    rows = [
        (
            name,
            f"{found['seconds'][name]['median']:.1f}",
            f"{found['seconds'][name]['minimum']:.1f}",
            f"{found['images_per_second'][name]:,.0f}",
        )
        for name in found["seconds"]
    ]
    return (
        "## A study (e)\n\n6 arms x 2 seeds of a tiny network on digits, the whole of each run with W&B offline. By "
        "hand means two processes that each do half of the runs in one go. Ours, with a process for each run, has "
        f"**{_times(found['ratio_default_threads'])}** the throughput of two processes with default threads and "
        f"**{_times(found['ratio_one_thread'])}** that of two with one thread; all {found['runs_that_agree']} runs "
        "have the same test loss as those with one thread.\n\n"
        + _table(["way", "s, median", "minimum", "images/s"], rows)
    )


def _scale(found: dict[str, Any]) -> str:
    shown = {key: value for key, value in found.items() if key != "load_average"}
    rows = [(key.replace("_", " "), f"{value:,.2f}" if value < 1e6 else _memory(value)) for key, value in shown.items()]
    return "## Commands that look\n\n" + _table(["what", "measured"], rows)


def _cost(found: dict[str, Any]) -> str:
    text = "## How the cost grows\n\nEvery row is a process of its own, started by the command in its last column."
    for name in ("width", "batch-size", "images"):
        rows = [
            (
                f"{row['parameters']:,}",
                f"{1e3 * row['seconds_per_step']:,.1f}",
                f"{row['seconds']:.1f}",
                f"{row['images_per_second']:,.0f}",
                _memory(row["max_rss_bytes"]),
                f"`{row['command']}`",
            )
            for row in found[name]
        ]
        columns = ["parameters", "ms a step", "s", "images/s", "memory", "command"]
        text += f"\n\n### Over {name.replace('-', ' ')}\n\n" + _table(columns, rows)
    return text


def _parity(found: dict[str, Any]) -> str:
    ways = [
        (way, ", ".join(_points(value) for value in row["values"]), _points(row["mean"]), _points(row["sd"]))
        for way, row in found["ways"].items()
    ]
    differences = [
        (
            f"{row['of']} − {row['to']}",
            f"{100 * row['mean']:+.2f}",
            f"{100 * row['interval'][0]:+.2f} to {100 * row['interval'][1]:+.2f}",
        )
        for row in found["differences"]
    ]
    return (
        "## Accuracy parity\n\nThe small network's whole training on real CIFAR-10 (`python -m "
        f"tests.benchmarks.parity`), one thread each, seeds {', '.join(map(str, found['seeds']))}; test accuracy after "
        "the last epoch in percent. A seed means the same initial weights, batches and augmentation in all three "
        "ways.\n\n"
        + _table(["way", "by seed", "mean", "sd"], ways)
        + "\n\nDifferences in points, paired by seed, with 95 % t-intervals:\n\n"
        + _table(["difference", "mean", "95 % interval"], differences)
    )


def _gpu(found: dict[str, Any]) -> str:
    compared = found["losses_compared"]
    ladder = [
        (
            name,
            f"{1e3 * row['median']:.2f}",
            f"{row['images_per_second']:,.0f}",
            f"{row['seconds_per_epoch']:.2f}",
            f"{row['tflops']:.0f}",
            _percent(row["share_of_matrix_product"]),
            _percent(found["loss_differences"][name], 2),
        )
        for name, row in found["ladder"].items()
    ]
    return (
        f"## On a GPU\n\n{found['card']}, torch {found['torch']}, CUDA {found['cuda']}; its product of bf16 matrices "
        f"reaches {found['matrix_product_tflops']:.0f} TFLOP/s. The published network, batch 128; each row adds one "
        "thing to the one before it. Epochs are of training alone, without their evaluation. All rows see the same "
        f"images in the same batches; losses are the first {compared}, against those of the second row.\n\n"
        + _table(["step", "ms", "images/s", "s an epoch", "TFLOP/s", "of the product", "loss differs by"], ladder)
        + f"\n\nUntil the first {compared} steps are done, kernels chosen and networks compiled: "
        + ", ".join(f"{name} {_seconds(seconds)}" for name, seconds in found["seconds_to_begin"].items())
        + f".{_remark(found)}\n\n"
        + "\n\n".join(_profile(name, found) for name in found["profiles"])
    )


def _profile(name: str, found: dict[str, Any]) -> str:
    """What a rung's step consists of; what its kernels leave of the step's time is the device waiting."""
    profile, step = found["profiles"][name], found["ladder"][name]["median"]
    kinds = [*profile["kinds"].items(), ("no kernel running", step - sum(profile["kinds"].values()))]
    launches = profile.get("launches", {})
    heads = ["kernels", "ms", "of the step", *(["launches"] if launches else [])]
    rows = [
        (
            kind,
            f"{1e3 * seconds:.3f}",
            _percent(seconds / step),
            *([f"{launches.get(kind, 0):.0f}"] if launches else []),
        )
        for kind, seconds in kinds
    ]
    longest = [(f"`{kernel[:90]}`", f"{1e3 * seconds:.3f}") for kernel, seconds in profile["longest"]]
    return (
        f"### Where the time of a step goes: {name}\n\n"
        + _table(heads, rows)
        + "\n\n"
        + _table(["the longest", "ms a step, all launches"], longest)
    )


def _remark(found: dict[str, Any]) -> str:
    """What whoever ran it wrote beside the numbers by hand."""
    return f" {found['remark']}" if "remark" in found else ""


def _packing(found: dict[str, Any]) -> str:
    alone = found["runs"]["1"]["images_per_second"]
    rows = [
        (
            f"{count}{how}",
            f"{row['images_per_second']:,.0f}",
            _times(row["images_per_second"] / alone),
            f"{row['slowest']:,.0f}",
        )
        for key, how in (("runs", ""), ("runs_under_mps", ", under MPS"))
        for count, row in found.get(key, {}).items()
    ]
    return (
        f"## Several runs at once on one GPU\n\n{found['card']}; the published network, a process a run, steps "
        f"recorded and not compiled, evaluation included.{_remark(found)}\n\n"
        + _table(["runs", "images/s, all together", "against one", "of the slowest"], rows)
    )


SECTIONS = {
    "step": _step,
    "input": _pipeline,
    "tracking": _tracking,
    "start": _start,
    "study": _study,
    "parity": _parity,
    "scale": _scale,
    "cost": _cost,
    "gpu": _gpu,
    "packing": _packing,
}


def _table(columns: Sequence[str], rows: Rows) -> str:
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join(' --- ' for _ in columns)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _points(share: float) -> str:
    return f"{100 * share:.2f}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f} x"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def _memory(value: float) -> str:
    return f"{value / 1e9:.2f} GB"


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(markdown(json.loads(source.read_text())))
