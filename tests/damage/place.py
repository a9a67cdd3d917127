"""A folder with a study, its runs and everything else that a command may be given, to be damaged and mended again."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.conftest import Result
from tests.damage.changes import INSTEAD, Change

TINY = """\
name: tiny
notes: small enough to be trained in a moment
model:
  depths: [1, 1]
  width: 4
  se: {placement: stem, reduction: 2}
data: {dataset: digits}
augment:
  crop: {padding: 1}
  cutmix: {probability: 0.5}
optim:
  optimizer: {kind: sgd, lr: 0.1, momentum: 0.9}
  schedule: {kind: cosine}
  lookahead: {k: 2, alpha: 0.5}
  clip: {kind: norm, value: 1.0}
train: {epochs: 2, batch_size: 512, precision: fp32}
guard: {max_parameters: 20_000}
"""
STUDY = """\
name: study
question: Does CutMix earn its place?
base: tiny.yaml
seeds: [0, 1]
margin: 0.01
reference: {label: "somebody 2024", accuracy: 0.9, loss: 0.3, images: 359, parameters: 2000, runs: 1, selection: test}
arms:
  no_cutmix: {augment.cutmix: null}
"""
GRAMMAR = """\
name: grammar
base: tiny.yaml
seeds: 2
overrides: {train.epochs: 3}
leave_one_out:
  se: {model.se: false}
add_one_in:
  flip: {augment.flip: true}
ladder:
  - ema: {optim.ema: {decay: 0.9}}
  - smoothing: {loss.label_smoothing: 0.1}
grid: {model.width: [4, 5], model.dropout: [0.0, 0.1]}
exclude: [{model.width: 5, model.dropout: 0.1}]
zip: {model.depths: [[1, 1], [2, 1]], model.width: [4, 6]}
match: {parameters: model.width}
"""
STUDENT = """\
name: student
base: tiny.yaml
loss: {distill: {teacher: teacher.pt, temperature: 2.0, weight: 0.5}}
"""
SECONDS = 20.0  # for one case: none takes a tenth of it, on a machine that does other things too

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class TooLong(BaseException):
    """A command that did not come back."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def call(*arguments: str) -> Result:
    """`harness ARGUMENTS` in this process, in the working folder."""
    from harness import cli

    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["harness", *arguments]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), at_most(SECONDS):
            cli.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = argv
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return Result(code, out.getvalue(), err.getvalue())


def fault(result: Result, arguments: Sequence[str]) -> str | None:
    """What is wrong with what a command gave for bad input; None for an answer as it should be."""
    if result.code not in (0, 1, 2):
        return f"exit {result.code}"
    if "Traceback" in result.err or ("Traceback" in result.out and "runs" not in arguments):
        return "a traceback"
    if result.code and not re.match(r"(error|failed|stopped|left out|Usage)\b", result.err.lstrip()):
        return f"exit {result.code} without a message"
    if found := CONTROL.search(result.err + ("" if "--json" in arguments else result.out)):
        return f"a control character, {found[0]!r}"
    if "--json" in arguments and result.code == 0:
        try:
            json.loads(result.out, parse_constant=lambda constant: 1 / 0)
        except (ValueError, ZeroDivisionError) as error:
            return f"no JSON: {error}"
    return None


@dataclass
class Place:
    """The folder. `files`: what each file in it holds while nothing is damaged."""

    root: Path
    files: dict[str, bytes] = field(default_factory=dict)

    def remember(self) -> None:
        self.files = {name: (self.root / name).read_bytes() for name in self._names()}

    def _names(self) -> list[str]:
        return [
            os.path.relpath(os.path.join(folder, name), self.root)
            for folder, folders, names in os.walk(self.root)
            for name in names + [link for link in folders if os.path.islink(os.path.join(folder, link))]
        ]

    def digest(self, below: str = "runs") -> str:
        """Of every name and byte."""
        sha = sha256()
        for folder, folders, names in os.walk(self.root / below):
            folders.sort()
            for name in sorted(names + folders):
                path = Path(folder, name)
                sha.update(os.fsencode(path) + b"\0")
                sha.update(
                    os.fsencode(os.readlink(path))
                    if path.is_symlink()
                    else path.read_bytes()
                    if path.is_file()
                    else b"/"
                )
        return sha.hexdigest()

    def damage(self, name: str, rng: Random, changes: Sequence[Change]) -> None:
        """The file's content, or now and then the file."""
        path = self.root / name
        if rng.random() < 0.06:
            path.unlink()
            rng.choice(INSTEAD)(path)
            return
        data = self.files[name]
        for _ in range(rng.choice((1, 1, 1, 2))):
            with contextlib.suppress(ValueError, EOFError, KeyError, IndexError, TypeError, OSError, Exception):
                data = rng.choice(changes)(rng, data)
        path.write_bytes(data)

    def mend(self) -> None:
        """As it was remembered."""
        for name in self._names():
            if name not in self.files:
                (self.root / name).unlink()
        for folder, _, _ in os.walk(self.root, topdown=False):
            if not os.listdir(folder):
                os.rmdir(folder)
        for name, data in self.files.items():
            path = self.root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            if path.is_symlink() or not path.exists() or path.read_bytes() != data:
                path.unlink(missing_ok=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


def furnish(root: Path) -> Place:
    """Train the study (four runs of a moment), and stop a fifth run in its middle."""
    from harness import runner
    from harness.events import EpochDone
    from harness.options import RunOptions
    from harness.spec.ablation import load_study
    from harness.spec.documents import load_experiment
    from harness.stop import Stop
    from harness.tracking.store import Store

    for name, text in {"tiny": TINY, "study": STUDY, "grammar": GRAMMAR, "student": STUDENT}.items():
        (root / f"{name}.yaml").write_text(text)
    (root / "half.yaml").write_text("base: tiny.yaml\nname: half\ntrain: {epochs: 4}\n")
    options = RunOptions(runs_dir=root / "runs", wandb="disabled", device="cpu", checkpoint_every=0, threads=1)
    study = load_study(root / "study.yaml")
    for arm in study.arms:
        for seed in study.seeds:
            runner.run(arm.spec, seed, options)
    stop = Stop(None)

    def after_two(event: Any) -> None:
        if isinstance(event, EpochDone) and event.row["epoch"] == 2:
            stop.reason = "interrupted"

    with contextlib.suppress(Exception):
        runner.run(load_experiment(root / "half.yaml"), 0, options, after_two, stop)
    for folder, record in Store(root / "runs").entries():
        shutil.move(folder.path, root / "runs" / f"{record.name}-{record.run_id}")
    shutil.copy(next(root.glob("runs/tiny-*/checkpoints/final.pt")), root / "teacher.pt")
    np.save(root / "images.npy", np.zeros((2, 8, 8, 1), np.uint8))
    place = Place(root)
    place.remember()
    return place
