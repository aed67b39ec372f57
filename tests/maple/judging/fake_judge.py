"""A judging server on this machine that follows a script: what it answers first, then the same verdict for ever."""

import contextlib
import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread

KEY = "sk-this-is-the-key-0123456789"


@dataclass
class Reply:
    body: bytes = b""
    status: int = 200
    headers: dict = field(default_factory=dict)
    lacks: int = 0  # bytes that are missing at the end, beside the size that was announced
    resets: bool = False  # the connection, before a byte
    closes: bool = False  # the connection, politely, before a byte
    raw: bytes = b""  # in the place of an answer
    endless: str = ""  # "body" or "headers", a byte at a time, or a "flood"
    before: Callable[[], None] = lambda: None


def content(text) -> Reply:
    return Reply(json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode())


def ranking(first: int) -> Reply:
    """As GPT-4 answers: the rank of the answer that was shown first."""
    return content(f"[{{'model': 'model_1', 'rank': {first}}}, {{'model': 'model_2', 'rank': {3 - first}}}]")


def likeliest(*tokens, finish="length") -> Reply:
    """The likeliest first tokens with their log-probabilities."""
    found = [{"token": token, "logprob": logprob} for token, logprob in tokens]
    choice = {"message": {"content": "m"}, "logprobs": {"content": [{"token": "m", "top_logprobs": found}]}}
    return Reply(json.dumps({"choices": [choice | {"finish_reason": finish}]}).encode())


def refusal(status, message, code=None, **headers) -> Reply:
    return Reply(json.dumps({"error": {"message": message, "code": code}}).encode(), status, headers)


@dataclass
class FakeJudge:
    script: list[Reply] = field(default_factory=list)
    always: Reply = field(default_factory=lambda: ranking(1))
    requests: list[dict] = field(default_factory=list)  # bodies
    headers: list[dict] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def __enter__(self):
        self.lock = Lock()
        handler = type("Handler", (_Handler,), {"judge": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    judge: FakeJudge

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.judge.lock:
            self.judge.requests.append(json.loads(body))
            self.judge.headers.append(dict(self.headers))
            self.judge.paths.append(self.path)
            reply = self.judge.script.pop(0) if self.judge.script else self.judge.always
        self.close_connection = True
        reply.before()
        with contextlib.suppress(OSError):  # the client had enough
            self.send(reply)

    def do_GET(self):  # what a client would ask for that followed a redirect
        self.judge.paths.append(self.path)
        self.send_error(404)

    def send(self, reply):
        if reply.closes or reply.raw:
            self.wfile.write(reply.raw)
            return
        if reply.resets:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        if reply.endless == "headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
            self.trickle(b" ")
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name.replace("_", "-"), value)
        if reply.endless:
            self.end_headers()
            self.trickle(b" " * 2**16 if reply.endless == "flood" else b" ")
        self.send_header("Content-Length", str(len(reply.body) + reply.lacks))
        self.end_headers()
        self.wfile.write(reply.body)

    def trickle(self, piece):
        while True:  # until the client closes
            self.wfile.write(piece)
            Event().wait(0.01)

    def log_message(self, *_):
        pass
