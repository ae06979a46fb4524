"""A web server on the loopback address that answers as a test tells it to, and remembers what it was asked."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """A request as it came in; header names are in lower case."""

    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What the server sends.

    `announced` is the Content-Length (None leaves it out; left alone, it is the body's); `cut` is the number of bytes
    after which the connection is closed; `stalls` keeps it open instead and sends no more.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    announced: int | None = -1
    cut: int | None = None
    stalls: bool = False
    chunked: bool = False


Respond = Callable[[Request], Answer]


@dataclass
class Stub:
    """A running server. Change `respond` to change what it answers."""

    port: int
    respond: Respond
    requests: list[Request] = field(default_factory=list)

    def url(self, path: str = "/yellow_tripdata_2021-01.csv", login: str = "") -> str:
        return f"http://{login}{'@' if login else ''}127.0.0.1:{self.port}{path}"


def a_file(body: bytes, etag: str | None = '"v1"', *, ranges: bool = True, cut: int | None = None) -> Respond:
    """A file server as RFC 9110 has it: `Range` is kept to while `If-Range` names the file's ETag."""

    def respond(request: Request) -> Answer:
        headers = {"ETag": etag} if etag else {}
        wanted = request.headers.get("range")
        if not (ranges and wanted and request.headers.get("if-range", etag) == etag):
            return Answer(200, body, headers, cut=cut)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            return Answer(416, b"", headers | {"Content-Range": f"bytes */{len(body)}"})
        return Answer(
            206, body[start:], headers | {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}, cut=cut
        )

    return respond


@contextmanager
def serve(respond: Respond) -> Iterator[Stub]:
    """Run a server for the time of a `with` block."""
    stub = Stub(0, respond)
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            request = Request(self.path, {name.lower(): value for name, value in self.headers.items()})
            stub.requests.append(request)
            answer = stub.respond(request)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif answer.announced is not None:
                self.send_header("Content-Length", str(len(answer.body) if answer.announced < 0 else answer.announced))
            self.send_header("Connection", "close")
            self.end_headers()
            sent = answer.body[: answer.cut]
            if answer.chunked:
                end = b"0\r\n\r\n" if answer.cut is None else b""
                sent = f"{len(sent):x}\r\n".encode() + sent + b"\r\n" + end
            self.wfile.write(sent)
            self.wfile.flush()
            if answer.stalls:
                over.wait(30)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that hangs up in the middle is what some tests are about."""

    with Server(("127.0.0.1", 0), Handler) as server:
        stub.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield stub
        finally:
            over.set()
            server.shutdown()
            thread.join()
