"""Which GPUs a study uses, and how its runs are shared out among them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.errors import InputError
from harness.options import AblateOptions
from harness.study import asked

WRITE = "write indices of GPUs: 0-3, or 0,2"
MOST = 1024
"""GPUs of one machine, far beyond any."""
TOLD = 10
"""GPUs that are not there and are told; of the others how many there are."""


def parse_devices(text: str) -> tuple[int, ...]:
    """ "0-3" -> (0, 1, 2, 3); "0,2" -> (0, 2); both may be mixed.

    Raises:
        InputError: it is no such list, or names a GPU twice or one beyond `MOST`.
    """
    devices: dict[int, None] = {}
    for part in text.split(","):
        matched = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
        if matched is None:
            raise InputError(f"{text!r} names no devices", where="--devices", fix=WRITE)
        first = int(matched[1])
        last = int(matched[2] or first)
        if last < first:
            raise InputError(f"{part.strip()!r} goes backwards", where="--devices", fix=WRITE)
        if last >= MOST:
            raise InputError(f"{part.strip()!r} goes beyond GPU {MOST - 1}", where="--devices", fix=WRITE)
        for index in range(first, last + 1):
            if index in devices:
                fix = "--jobs says how many runs share one"
                raise InputError(f"GPU {index} is named twice", where="--devices", fix=fix)
            devices[index] = None
    return tuple(devices)


def check_devices(devices: Sequence[int], count: int, visible: str | None) -> None:
    """All of them are there. `count` GPUs are seen here, `visible` is CUDA_VISIBLE_DEVICES.

    Raises:
        InputError: some are not.
    """
    missing = [index for index in devices if index >= count]
    if not missing:
        return
    found = {0: "no CUDA device", 1: "one GPU, 0"}.get(count, f"{count} GPUs, 0 to {count - 1}")
    among = f" (CUDA_VISIBLE_DEVICES={visible}: indices are positions in it)" if visible is not None else ""
    there = ", ".join(map(str, missing[:TOLD])) + (f" and {len(missing) - TOLD} more" if len(missing) > TOLD else "")
    raise InputError(f"there is no GPU {there}: this machine has {found}{among}", where="--devices")


def idle_gpus(options: AblateOptions) -> str | None:
    """What to tell of GPUs that nobody has decided to leave idle; None where there are none."""
    if options.executor != "local" or options.devices or options.run.device not in ("auto", "cuda"):
        return None
    count = asked.count_gpus()
    return f"1 of {count} GPUs is used: --devices 0-{count - 1} uses them all" if count > 1 else None


def share_out(jobs: int | None, devices: Sequence[str]) -> list[str]:
    """The device of each of `jobs` slots, in turn, so that no device has two runs more than another.

    `jobs` None: one slot for each device. With fewer jobs than devices the last devices stay idle.
    """
    slots = len(devices) if jobs is None else jobs
    return [devices[slot % len(devices)] for slot in range(slots)]
