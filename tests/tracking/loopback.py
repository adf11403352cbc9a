"""A server on this machine that answers W&B's own client as far as a run needs it, and remembers what it was told."""

import contextlib
import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """`with Server() as server`: server.url; `refuse` = answer 401 to everything."""

    def __init__(self, refuse: bool = False):
        self.refuse = refuse
        self.rows: list[dict] = []  # of the history, as they came
        self.upserts, self.artifacts, self.ends, self.keys = [], [], [], set()
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Answers,), {"told": self}))
        self.http.daemon_threads = True
        self.http.handle_error = lambda *_: None  # a client that is killed resets its connection
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def steps(self) -> list[int]:
        with self.lock:
            return [row["_step"] for row in self.rows]

    def query(self, name: str, variables: dict) -> dict:
        project = {"id": "p", "name": "goodsubnets", "entity": {"id": "e", "name": "me"}}
        if name == "RunResumeStatus":
            return {"model": project | {"bucket": self._known(variables["name"])}}
        if name == "UpsertBucket":
            self.upserts.append(variables)
            bucket = {"id": "b", "name": variables["name"], "config": "{}", "project": project, "historyLineCount": len(self.rows)}
            return {"upsertBucket": {"bucket": bucket, "inserted": not self.rows}}
        if name == "CreateArtifact":
            self.artifacts.append(variables["input"])
            made = {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": None}, "versionIndex": 0}
            return {"createArtifact": {"artifact": made}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/upload/{file}"} for file in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        viewer = {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
        return {"Viewer": {"viewer": viewer}, "ServerFeaturesQuery": {"serverInfo": {"features": []}}, "ArtifactType": {"project": None}}.get(name, {})

    def _known(self, run: str) -> dict | None:
        if not self.rows:
            return None
        tail = json.dumps([json.dumps(self.rows[-1])])
        counts = {"historyLineCount": len(self.rows), "eventsLineCount": 0, "logLineCount": 0}
        texts = {"historyTail": tail, "eventsTail": "[]", "config": "{}", "summaryMetrics": "{}"}
        return {"id": "b", "name": run, "displayName": run, "tags": [], "notes": None, "wandbConfig": '{"t": 1}', **counts, **texts}

    def stream(self, body: dict) -> None:
        files = body.get("files") or {}
        with self.lock:
            if chunk := files.get("wandb-history.jsonl"):
                self.rows[chunk["offset"] :] = [json.loads(line) for line in chunk["content"]]
        if body.get("complete"):
            self.ends.append(body.get("exitcode"))


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    told: Server

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data)
        self.told.keys.add(self.headers.get("Authorization"))
        if self.told.refuse:
            return self._reply({"errors": [{"message": "user is not logged in"}]}, 401)
        if self.path.endswith("/file_stream"):
            self.told.stream(body)
            return self._reply({"exitcode": None, "limits": {}})
        name = re.search(r"(?:query|mutation)\s+(\w+)", body["query"]).group(1)
        return self._reply({"data": self.told.query(name, body.get("variables") or {})})

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self._reply({})

    def _reply(self, answer: dict, code: int = 200) -> None:
        data = json.dumps(answer).encode()
        with contextlib.suppress(OSError):
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_):
        """Nothing on stderr."""
