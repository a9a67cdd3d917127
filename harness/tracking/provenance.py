"""Under which conditions a run was made: code, versions, machine, command. No secrets, no network.

Everything here is best effort and takes a few hundredths of a second: a missing git, or a harness
that is installed rather than checked out, leaves `None` and never fails.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import harness
from harness.errors import printable

DISTRIBUTION = "budget-ablation-harness"
PACKAGES = ("torch", "torchvision", "numpy", "wandb", "pydantic", "scikit-learn", DISTRIBUTION)
GIT_SECONDS = 2.0
HIDDEN = "***"
_SECRET_NAME = re.compile(r"key|token|secret|password|passwd|credential", re.IGNORECASE)
_URL_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def collect(command: Sequence[str]) -> dict[str, Any]:
    """The provenance of a run that starts now; `command` is the argument vector as typed.

    Keys: git_commit, git_dirty, git_diff_digest, packages, python, platform, host, command, started.
    """
    return {
        **checkout(Path(harness.__file__).resolve().parent),
        "packages": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "command": redact(command, os.environ),
        "started": now(),
    }


def now() -> str:
    """The present moment as ISO 8601 in UTC, so that records sort by it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on; what is not installed is left out."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def redact(command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The command without secrets: values of options named like one, values of such variables, logins in URLs.

    Bytes that are no text (the name of an old folder may hold some) are told by their number.
    """
    secrets = [value for name, value in environment.items() if _SECRET_NAME.search(name) and len(value) >= 8]
    shown: list[str] = []
    hide_next = False
    for word in map(str, command):
        name, equals, _ = word.partition("=")
        named_secret = bool(_SECRET_NAME.search(name))
        if hide_next and not word.startswith("--"):
            shown.append(HIDDEN)
        elif equals and named_secret:
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(_without(word, secrets))
        hide_next = word.startswith("-") and not equals and named_secret
    return [printable(word) for word in shown]


def _without(word: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        word = word.replace(secret, HIDDEN)
    return _URL_LOGIN.sub(HIDDEN, word)


def checkout(package: Path) -> dict[str, Any]:
    """Commit, dirty flag and diff digest of the checkout that `package` (a folder) is part of.

    Only the package's own files count as dirty: reports and runs written beside it change no result.
    All None when the package lies in no checkout of its own: an environment inside somebody's
    repository must not pass for it.
    """
    unknown = {"git_commit": None, "git_dirty": None, "git_diff_digest": None}
    root = package.parent
    head = _git(root, "rev-parse", "--show-toplevel", "HEAD")
    if head is None or len(head.splitlines()) != 2:
        return unknown
    top, commit = head.decode(errors="replace").splitlines()
    if Path(top).resolve() != root.resolve():
        return unknown
    tracked = _git(root, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--no-color", "--", package.name)
    untracked = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", package.name)
    if tracked is None or untracked is None:
        return unknown | {"git_commit": commit}
    digest = _digest(root, tracked, untracked)
    return {"git_commit": commit, "git_dirty": digest is not None, "git_diff_digest": digest}


def _digest(root: Path, diff: bytes, untracked: bytes) -> str | None:
    """SHA-256 (16 hex digits) of what differs from the commit; None when nothing does."""
    names = [name for name in untracked.split(b"\0") if name]
    if not diff and not names:
        return None
    digest = hashlib.sha256(diff)
    for name in sorted(names):
        digest.update(name + b"\0")
        try:
            digest.update((root / os.fsdecode(name)).read_bytes())
        except OSError:
            continue  # gone or unreadable since git listed it: its name still counts
    return digest.hexdigest()[:16]


def _git(root: Path, *arguments: str) -> bytes | None:
    """What git prints, or None when there is no git, no checkout, or no answer in time."""
    # A hook's or a bare wrapper's GIT_DIR would point at another repository; no lock for a mere look.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True, stdin=subprocess.DEVNULL, timeout=GIT_SECONDS, env=environment, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
