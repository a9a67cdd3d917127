"""A real Slurm of two nodes on this machine, from Debian's packages, for as long as a `with` block.

Both nodes are slurmd processes on loopback, each with two CPUs and two pretended GPUs (device files that lead nowhere);
authentication is a munged of our own, with a key made here. Needs root, and nothing that runs already is touched.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
PACKAGES = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge"
CONFIGURATION = """\
ClusterName=harness
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
KillWait=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]} CPUs=2 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no cluster here; None where there can."""
    if os.geteuid() != 0:
        return "a Slurm of our own needs root"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"not installed: {', '.join(absent)}; as root: {PACKAGES}" if absent else None


class Cluster:
    """`environment` is what a process needs to be its client."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.environment = os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> Self:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(1024))
        devices = [self.folder / f"gpu{index}" for index in (0, 1)]
        for device in devices:
            os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))  # what /dev/null is
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-1]\n")
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(host=host, folder=self.folder, ports=_free_ports(4))
        (self.folder / "slurm.conf").write_text(text)
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def command(self, *words: str) -> str:
        """What a command of Slurm prints."""
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, check=True).stdout

    def wait(self, words: tuple[str, ...], expected: str, seconds: float = 30) -> None:
        """Until the command prints `expected`."""
        deadline = time.monotonic() + seconds
        while (printed := self.command(*words)).strip() != expected:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{' '.join(words)} prints {printed!r}, not {expected!r}")
            time.sleep(0.2)

    def _start(self) -> None:
        files = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log"}
        munge = [f"--{option}={self.folder / name}" for option, name in files.items()]
        self.command("munged", "--force", f"--seed-file={self.folder}/munged.seed", *munge)
        self.command("slurmctld")
        for node in ("n1", "n2"):
            self.command("slurmd", "-N", node)
        self.wait(("sinfo", "--noheader", "--states=idle", "--format=%D"), "2")

    def _stop(self) -> None:
        """What still runs is cancelled; then the daemons by their own pid files: nodes, controller, munged."""
        with contextlib.suppress(subprocess.CalledProcessError, TimeoutError):
            self.command("scancel", "--partition=main", "--full")
            self.wait(("squeue", "--noheader"), "", seconds=15)
        for name in ("slurmd.n1", "slurmd.n2", "slurmctld", "munged"):
            path = self.folder / f"{name}.pid"
            if path.exists():
                _end(int(path.read_text()))


def _end(pid: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and _is_alive(pid):
            time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    """A zombie is not: where process 1 does not reap, it stays."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
