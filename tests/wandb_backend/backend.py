"""A Weights & Biases backend on loopback: what wandb 0.31 asks of one, answered from memory.

It knows the operations that the installed wandb uses to write runs (upsert, file stream, file upload) and to read
them back (run, history), keeps every body it was sent, and refuses what it is told to refuse (`fail`) or what it
does not know.

What it does not prove: that the real service accepts these bodies or answers so. Its answers were written after what
wandb sends and takes, not after the service. It checks no permissions, quotas, rate limits or name rules, keeps
nothing, has no TLS, exports no history to parquet, samples none and takes no time. Of a run that is
written twice without `resume` people report that the second time replaces the first (wandb issues 3841 and 5865); so
it tells wandb to begin at the first line, puts lines at their offset, and lets those stay that lie behind the last.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "somebody"
KEY = "local-" + "0123456789abcdef" * 3  # of no service, and of no person
FILE_STREAM, UPLOAD = "file_stream", "upload"  # what is no GraphQL operation, named as if it were one
STEP = "_step"

_OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")
_FILE_STREAM_PATH = re.compile(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream")


@dataclass
class Run:
    """A run as the backend has it."""

    project: str
    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    """What was upserted: `displayName`, `config` (JSON text), `tags`, `groupName`, ..."""
    lines: dict[str, dict[int, str]] = field(default_factory=dict)
    """The file stream's files, by offset."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What was uploaded."""
    exit_code: int | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history, in order of its lines."""
        return [json.loads(line) for _, line in sorted(self.lines.get("wandb-history.jsonl", {}).items())]

    @property
    def summary(self) -> str:
        """JSON text."""
        lines = self.lines.get("wandb-summary.json", {})
        text: str = lines[max(lines)] if lines else self.fields.get("summaryMetrics") or "{}"
        return text

    @property
    def state(self) -> str:
        if self.exit_code is None:
            return "running"
        return "finished" if self.exit_code == 0 else "failed"


@dataclass(frozen=True)
class Asked:
    """One request, as it came."""

    operation: str
    run: str | None
    """The run's id; None where it is about none."""
    body: Any


class Backend:
    """A server on a port of its own, between `start` and `stop`; what it holds outlives both.

    `appends`: of a run that it has it wants what is sent behind what it has, as no server should without `resume`.
    """

    def __init__(self, appends: bool = False) -> None:
        self.appends = appends
        self.runs: dict[str, Run] = {}
        self.views: dict[str, dict[str, Any]] = {}
        """Saved workspaces by id, as they were sent last."""
        self.asked: list[Asked] = []
        self._faults: dict[tuple[str, str | None], int] = {}
        self._frozen: set[str] = set()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Backend:
        """On the port it had before, if it had one."""
        self._stopped.clear()
        handler = type("Handler", (_Handler,), {"backend": self})
        self._server = _Server(("127.0.0.1", self._port), handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """As if the network had gone: connections are refused, those that are open end."""
        self._stopped.set()
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def fail(self, operation: str, status: int, run: str | None = None) -> None:
        """From now on answer this operation with this HTTP status, of one run or of all.

        What it says then holds the key, as a careless server's answer might.
        """
        self._faults[operation, run] = status

    def answer_all(self) -> None:
        """Nothing is refused any more."""
        self._faults.clear()

    def freeze(self, operation: str) -> None:
        """From now on leave this operation without an answer, until `stop`."""
        self._frozen.add(operation)

    def count(self, operation: str) -> int:
        """How often it was asked."""
        return sum(asked.operation == operation for asked in self.asked)

    @property
    def running(self) -> bool:
        return self._server is not None

    # --- answering ---

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON answer of one request."""
        status, answer = self._answer(method, path, body)
        if self.asked[-1].operation in self._frozen:
            self._stopped.wait()
        return status, answer

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        with self._lock:
            if path == "/graphql":
                return self._graphql(json.loads(body))
            if found := _FILE_STREAM_PATH.fullmatch(path):
                return self._asked(FILE_STREAM, found[3], json.loads(body), lambda sent: self._file_stream(found, sent))
            if method == "PUT" and path.startswith("/storage/"):
                return self._asked(UPLOAD, path.split("/")[2], body, lambda sent: self._upload(path, sent))
            return self._asked(path, None, body, lambda sent: (404, {"error": f"unknown: {method} {path}"}))

    def _asked(
        self, operation: str, run: str | None, body: Any, answer: Callable[[Any], tuple[int, Any]]
    ) -> tuple[int, Any]:
        self.asked.append(Asked(operation, run, body))
        if status := self._faults.get((operation, run)) or self._faults.get((operation, None)):
            return status, {"error": f"{operation} is refused to {KEY}"}
        return answer(body)

    def _graphql(self, body: dict[str, Any]) -> tuple[int, Any]:
        named = _OPERATION.search(body["query"])
        operation = named[1] if named else "unnamed"
        run = _run_of(body.get("variables") or {})
        answer = _ANSWERS.get(operation)
        if answer is None:
            unknown = {"errors": [{"message": f"unknown operation {operation}"}]}
            return self._asked(operation, run, body, lambda sent: (400, unknown))
        return self._asked(
            operation, run, body, lambda sent: (200, {"data": answer(self, sent.get("variables") or {})})
        )

    def _file_stream(self, path: re.Match[str], sent: dict[str, Any]) -> tuple[int, Any]:
        run = self.runs.get(path[3])
        if run is None or run.project != path[2]:
            return 404, {"error": "no such run"}
        for name, part in sent.get("files", {}).items():
            kept = run.lines.setdefault(name, {})
            kept |= {part["offset"] + number: line for number, line in enumerate(part["content"])}
        if sent.get("complete"):
            run.exit_code = sent.get("exitcode", 0)
        return 200, {"exitcode": None, "limits": {}}

    def _upload(self, path: str, sent: bytes) -> tuple[int, Any]:
        _, _, run, name = path.split("/", 3)
        self.runs[run].files[name] = sent
        return 200, {}


# --- GraphQL -----------------------------------------------------------------------------------


def _run_of(given: dict[str, Any]) -> str | None:
    """The id of the run that a request is about; None: of none."""
    return given.get("name") or given.get("run") or given.get("runName")


def _viewer(backend: Backend, given: dict[str, Any]) -> Any:
    teams = {"edges": [{"node": {"name": ENTITY}}]}
    user = {"id": "1", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "", "admin": False}
    return {"viewer": user | {"flags": "{}", "teams": teams, "deletedAt": None, "apiKeys": {"edges": []}}}


def _features(backend: Backend, given: dict[str, Any]) -> Any:
    return {"serverInfo": {"features": []}}


def _upsert(backend: Backend, given: dict[str, Any]) -> Any:
    name = given.get("name") or given["id"].removeprefix("storage-")
    inserted = name not in backend.runs
    run = backend.runs.setdefault(name, Run(given.get("project") or "uncategorized", name))
    run.exit_code = None
    run.fields |= {key: value for key, value in given.items() if value is not None}
    begun_at = {"historyLineCount": len(run.rows) if backend.appends else 0}  # where wandb goes on
    return {"upsertBucket": {"bucket": _bucket(run) | begun_at, "inserted": inserted}}


def _bucket(run: Run) -> Any:
    told = {key: run.fields.get(key) for key in ("displayName", "description", "config")}
    project = {"id": "7", "name": run.project, "entity": {"id": "1", "name": ENTITY}}
    known = {"id": f"storage-{run.name}", "name": run.name, "sweepName": None, "historyLineCount": len(run.rows)}
    return told | known | {"project": project}


def _create_files(backend: Backend, given: dict[str, Any]) -> Any:
    urls = [{"name": name, "uploadUrl": f"{backend.url}/storage/{given['run']}/{name}"} for name in given["files"]]
    return {"createRunFiles": {"runID": f"storage-{given['run']}", "uploadHeaders": [], "files": urls}}


def _upsert_view(backend: Backend, given: dict[str, Any]) -> Any:
    id = given.get("id") or f"view-{len(backend.views)}"
    inserted = id not in backend.views
    backend.views[id] = given
    return {"upsertView": {"view": {"id": id, "name": given["name"]}, "inserted": inserted}}


def _of_run(told: Callable[[Run, dict[str, Any]], Any]) -> Callable[[Backend, dict[str, Any]], Any]:
    """Answers about one run of a project; null where there is none."""

    def answer(backend: Backend, given: dict[str, Any]) -> Any:
        run = backend.runs.get(_run_of(given) or "")
        if run is None or run.project != given["project"] or given["entity"] != ENTITY:
            return {"project": {"run": None}}
        return {"project": {"run": told(run, given)}}

    return answer


def _run(run: Run, given: dict[str, Any]) -> Any:
    fields = {"group": "groupName", "jobType": "jobType", "notes": "notes", "tags": "tags"}
    told = {key: run.fields.get(name) for key, name in fields.items()}
    scores = {"summaryMetrics": run.summary, "systemMetrics": "{}", "state": run.state}
    missing = dict.fromkeys(("commit", "createdAt", "heartbeatAt"))
    user = {"user": {"name": ENTITY, "username": ENTITY}, "readOnly": False, "projectId": "7"}
    return _bucket(run) | told | scores | missing | user | _history_keys(run, given)


def _history_keys(run: Run, given: dict[str, Any]) -> Any:
    rows = run.rows
    return {"historyKeys": {"lastStep": rows[-1][STEP] if rows else -1, "sets": []}}


def _page(run: Run, given: dict[str, Any]) -> Any:
    wanted = range(given["minStep"], given["maxStep"])
    return {"history": [json.dumps(row) for row in run.rows if row[STEP] in wanted]}


def _files(run: Run, given: dict[str, Any]) -> Any:
    edges = [{"node": _file(name, data), "cursor": name} for name, data in sorted(run.files.items())]
    page = {"endCursor": None, "hasNextPage": False}
    return {"fileCount": len(edges), "files": {"edges": edges, "pageInfo": page}}


def _file(name: str, data: bytes) -> Any:
    missing = dict.fromkeys(("url", "directUrl", "mimetype", "updatedAt"))
    md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
    return missing | {"id": name, "name": name, "sizeBytes": len(data), "md5": md5}


def _no_parquet(run: Run, given: dict[str, Any]) -> Any:
    return {"parquetHistory": {"parquetUrls": [], "liveData": []}}


_ANSWERS: dict[str, Callable[[Backend, dict[str, Any]], Any]] = {
    "Viewer": _viewer,
    "GetViewer": _viewer,
    "GetDefaultEntity": _viewer,
    "ServerFeaturesQuery": _features,
    "UpsertBucket": _upsert,
    "CreateRunFiles": _create_files,
    "UpsertView2": _upsert_view,
    "Run": _of_run(_run),
    "RunFiles": _of_run(_files),
    "RunHistoryKeys": _of_run(_history_keys),
    "HistoryPage": _of_run(_page),
    "RunParquetHistory": _of_run(_no_parquet),
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is nothing to tell of."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    backend: Backend

    def do_POST(self) -> None:
        self._reply()

    def do_PUT(self) -> None:
        self._reply()

    def do_GET(self) -> None:
        self._reply()

    def _reply(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if not self.backend.running:
            self.close_connection = True
            return
        status, answer = self.backend.answer(self.command, self.path, body)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""
