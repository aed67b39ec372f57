"""A hub on this machine: what huggingface_hub asks of one to download files, and what can go wrong on the way.

    HEAD, GET  /[datasets/]owner/name/resolve/REVISION/FILE    X-Repo-Commit, ETag, Content-Length; ranges
    GET        /api/(models|datasets)/owner/name/tree/COMMIT   the listing that snapshot_download begins with

Errors carry the hub's own X-Error-Code.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

COMMIT = "a" * 40
FILE_URL = re.compile(r"/(.+?/.+?(?:/.+?)?)/resolve/([^/]+)/(.+)")
TREE_URL = re.compile(r"/api/(models|datasets)/(.+?)/tree/([^/?]+)")


@dataclass
class Repository:
    files: dict[str, bytes]
    commit: str = COMMIT  # what the branch is
    branch: str = "main"
    status: int = 200  # of every answer
    error_code: str = ""  # X-Error-Code that goes with another status
    breaks_after: int | None = None  # bytes of a file, however often it is asked for
    lacks: int = 0  # bytes that are missing at the end of a file, beside the size that was announced
    answers: str | None = None  # another commit than the one asked for


@dataclass
class FakeHub:
    """Repositories by the path of their page: owner/name, datasets/owner/name."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        self.hub.requests.append(f"{self.command} {self.path}")
        if tree := TREE_URL.match(self.path):
            kind, name, revision = tree.groups()
            page, file = f"datasets/{name}" if kind == "datasets" else name, None
        elif found := FILE_URL.match(self.path):
            page, revision, file = found.groups()
        else:  # huggingface_hub asks for more than files now and then, and does without
            return self.refuse(404, "")
        repository = self.hub.repositories.get(page)
        if repository is None:
            self.refuse(401, "RepoNotFound")
        elif repository.status != 200:
            self.refuse(repository.status, repository.error_code)
        elif unquote(revision) not in (repository.branch, repository.commit):
            self.refuse(404, "RevisionNotFound")
        elif file is None:
            self.send_listing(repository)
        elif file not in repository.files:
            self.refuse(404, "EntryNotFound")
        else:
            self.send_file(repository, repository.files[file], body)

    def refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_listing(self, repository):
        listing = [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in repository.files.items()
        ]
        content = json.dumps(listing).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_file(self, repository, content, body):
        etag, size = hashlib.sha1(content).hexdigest(), len(content)
        if body:
            content = content[: size - repository.lacks]
        first = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
        self.send_response(206 if first else 200)
        self.send_header("X-Repo-Commit", repository.answers or repository.commit)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(len(content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self.wfile.write(content[first : repository.breaks_after])
            self.close_connection = repository.breaks_after is not None

    def log_message(self, *_):
        pass
