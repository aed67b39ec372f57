"""One POST and its whole answer, or the reason why there is none, within a time and a size.

Python's own http.client: it follows no redirect, so a key never travels to another host, and it lends its socket, so
that whatever a server trickles, headers too, is cut at the deadline. Proxies are the environment's (https_proxy).
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from urllib.parse import SplitResult, unquote, urlsplit

from maple.errors import InputError, first_line

LONGEST_CONNECT = 30  # seconds for a connection
DEADLINE = 300  # seconds for an answer; a 70B model on a busy server takes some tens of them
LARGEST = 4 * 2**20  # bytes of an answer; a verdict has a thousand
PATIENT, BRIEF = 8, 3  # tries in all: a busy server recovers in minutes, a wrong one never


class Failed(Exception):
    """A request that came to nothing, though another one may not; after `tries` of them none is worth it."""

    def __init__(self, what: str, tries: int = PATIENT, wait: float = 0):
        super().__init__(what)
        self.tries = tries
        self.wait = wait  # seconds that the server asks for


@dataclass(frozen=True)
class Answer:
    """Status, headers and body."""

    status: int
    headers: Message
    body: bytes


def post(url: str, body: bytes, headers: dict[str, str]) -> Answer:
    """Send a body and take the answer. Raises Failed where trying again may help, else InputError."""
    connection, path, headers = _route(urlsplit(url), headers)
    try:
        connection.connect()
        connection.sock.settimeout(DEADLINE)
        with _deadline(connection.sock):
            connection.request("POST", path, body, headers | {"Connection": "close"})
            response = connection.getresponse()
            content = response.read(LARGEST + 1)
            missing = response.length  # None where the server did not announce it
    except ssl.SSLCertVerificationError as error:
        raise InputError(
            f"{url}: its certificate is not trusted ({error.verify_message}); SSL_CERT_FILE names the file of your own"
        ) from error
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise Failed(f"its name cannot be looked up ({error.strerror})") from error
        raise InputError(f"{url}: there is no such host ({error.strerror}); correct the URL") from error
    except (OSError, http.client.HTTPException) as error:
        raise Failed(first_line(error), BRIEF if isinstance(error, ssl.SSLError) else PATIENT) from error
    finally:
        connection.close()
    if len(content) > LARGEST:
        raise Failed(f"an answer of more than {LARGEST} bytes, which no verdict has", BRIEF)
    if missing:
        raise Failed(f"an answer that ends {missing} bytes too soon")
    return Answer(response.status, response.headers, content)


@contextlib.contextmanager
def _deadline(sock: socket.socket) -> Iterator[None]:
    """Cut the socket after `DEADLINE` seconds, which ends whatever waits for it; the block then ends with Failed."""
    expired = threading.Event()

    def cut() -> None:
        expired.set()
        with contextlib.suppress(OSError):  # the other side was quicker
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # past TLS, whose own farewell could wait again

    watch = threading.Timer(DEADLINE, cut)
    watch.daemon = True
    watch.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if not expired.is_set():
            raise
    finally:
        watch.cancel()
    if expired.is_set():
        raise Failed(f"no whole answer within {DEADLINE} seconds", BRIEF)


def _route(target: SplitResult, headers: dict) -> tuple[http.client.HTTPConnection, str, dict]:
    """The connection to a host or to the proxy before it, with the path and the headers to send on it."""
    from urllib.request import getproxies, proxy_bypass

    encrypted = target.scheme == "https"
    kind = http.client.HTTPSConnection if encrypted else http.client.HTTPConnection
    proxy = getproxies().get(target.scheme)
    if not proxy or proxy_bypass(target.hostname):
        return kind(target.hostname, target.port, timeout=LONGEST_CONNECT), target.path, headers
    via = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    pass_ = {}
    if via.username:
        name = f"{unquote(via.username)}:{unquote(via.password or '')}"
        pass_ = {"Proxy-Authorization": f"Basic {base64.b64encode(name.encode()).decode()}"}
    connection = kind(via.hostname, via.port or 80, timeout=LONGEST_CONNECT)
    if not encrypted:
        return connection, target.geturl(), headers | pass_
    connection.set_tunnel(target.hostname, target.port or 443, pass_)
    return connection, target.path, headers
