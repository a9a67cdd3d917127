"""Which device, which arithmetic, how many threads: resolved once, written into the record."""

from __future__ import annotations

import gc
import os
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from harness.errors import InputError

CHOICES = "use auto, cpu, mps, cuda or cuda:<index>"

NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "could not create a primitive",  # oneDNN's word for it, on a CPU
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""How torch says that memory is full where it has no type of error for it."""


@dataclass(frozen=True)
class Hardware:
    """Where a run computes. `precision` is resolved: fp32 or bf16; `graphs`: steps are recorded as CUDA graphs."""

    device: torch.device
    name: str
    precision: str
    threads: int
    graphs: bool = False

    @property
    def kind(self) -> str:
        """Type of device: cpu, cuda or mps."""
        return self.device.type


def resolve(device: str, precision: str) -> Hardware:
    """Resolve `auto` device and precision.

    Raises:
        InputError: the device does not exist here.
    """
    chosen = resolve_device(device)
    if precision == "auto":
        precision = "bf16" if computes_bf16(chosen) else "fp32"
    return Hardware(chosen, device_name(chosen), precision, torch.get_num_threads(), graphs=chosen.type == "cuda")


def resolve_device(device: str) -> torch.device:
    """`auto` is the first CUDA device, else Apple's GPU, else the CPU."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"{device!r} is no device", where="--device", fix=CHOICES) from error
    if chosen.type == "cuda":
        count = count_gpus()
        if (chosen.index or 0) >= count:
            found = f"cuda:0 to cuda:{count - 1}" if count else "no CUDA device"
            raise InputError(f"there is no {device}: this machine has {found}", where="--device")
        return torch.device("cuda", chosen.index or 0)
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("this machine has no mps device", where="--device")
    if chosen.type not in ("cpu", "mps"):
        raise InputError(f"{device!r} is not supported", where="--device", fix=CHOICES)
    return chosen


def count_gpus() -> int:
    """CUDA devices seen here: those of CUDA_VISIBLE_DEVICES where it is set."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def type_of(device: str) -> str:
    """The type that `--device` names, "cuda" of "cuda:1", whether there is such a device here or not.

    Raises:
        InputError: it names none.
    """
    kind = resolve_device("auto").type if device == "auto" else device.split(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise InputError(f"{device!r} is no device", where="--device", fix=CHOICES)
    return kind


def computes_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices itself (GPU, or CPU with avx512_bf16 or AMX)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return _cpu_computes_bf16()
    return False


def _cpu_computes_bf16() -> bool:
    if hasattr(torch.cpu, "get_capabilities"):  # newer torch
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def device_name(device: torch.device) -> str:
    """The device's name as its maker writes it, as far as the system tells."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu" and os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    import platform

    return platform.processor() or platform.machine()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of a device, or of the machine, was full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def can_compile() -> bool:
    """Whether torch.compile finds what it needs for a GPU: Triton, which builds its launchers with a C compiler."""
    compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("clang")
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return find_spec("triton") is not None and compiler is not None and headers.exists()


@contextmanager
def arithmetic(hardware: Hardware, deterministic: bool) -> Iterator[None]:
    """Set torch's global CUDA switches for one run and put them back: device, cudnn's search, determinism, no TF32.

    What `usage` tells of memory begins anew.
    """
    if hardware.kind != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, torch.are_deterministic_algorithms_enabled(), cudnn.allow_tf32
    cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
    cudnn.allow_tf32 = False  # fp32 means fp32: TF32 has a mantissa of 10 bits
    try:
        if torch.cuda.is_initialized():  # or the runs before this one in the process would count as its memory
            torch.cuda.reset_peak_memory_stats(hardware.device)
        with torch.cuda.device(hardware.device):  # what names no device means this one, not the first
            yield
    finally:
        cudnn.benchmark = before[0]
        torch.use_deterministic_algorithms(before[1])
        cudnn.allow_tf32 = before[2]


def usage(hardware: Hardware) -> dict[str, Any]:
    """What a GPU can tell of an epoch, for its row: `memory_bytes`, the most that tensors have taken so far, and
    `utilisation`, the share of the last moments in which it computed, where NVIDIA's library (pynvml) is installed.
    """
    if hardware.kind != "cuda":
        return {}
    told: dict[str, Any] = {"memory_bytes": torch.cuda.max_memory_allocated(hardware.device)}
    with suppress(Exception):  # no pynvml, or a driver that does not tell: a column less
        told["utilisation"] = torch.cuda.utilization(hardware.device) / 100
    return told


def let_go(hardware: Hardware) -> None:
    """Free a GPU of a training that is over: its recordings and itself hold each other until Python looks for that."""
    if hardware.kind == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def autocast(hardware: Hardware) -> torch.autocast:
    """Forward passes in bf16 where the precision says so; weights and optimiser stay fp32."""
    return torch.autocast(hardware.kind, torch.bfloat16, enabled=hardware.precision == "bf16")
