"""A server on this machine that speaks the part of the Hugging Face hub's protocol that downloads of one file need, and fails
in the ways that servers and networks fail."""

import contextlib
import dataclasses
import hashlib
import re
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclasses.dataclass
class File:
    """A body, and what is wrong with it.

    Attributes:
        body: what was published.
        etag: the version that is announced; its SHA-256, as on the hub, unless given. None announces none.
        corrupted: the first byte that is sent is another one.
        cut: after how many bytes (of an answer, not of the file) the connection breaks off, answer by answer.
        status: answer with this error instead.
        busy: how many requests for the body are first answered with HTTP 503.
        seconds_per_chunk: pause after every 64 kB.
        ranges: whether parts of the body can be asked for.
    """

    body: bytes
    etag: str | None = ""
    corrupted: bool = False
    cut: list[int] = dataclasses.field(default_factory=list)
    status: int = 200
    busy: int = 0
    seconds_per_chunk: float = 0.0
    ranges: bool = True

    @property
    def announced(self) -> str | None:
        return f'"{hashlib.sha256(self.body).hexdigest()}"' if self.etag == "" else self.etag


@contextlib.contextmanager
def serve(files: Mapping[str, bytes | File]) -> Iterator[tuple[str, list[str]]]:
    """Serves `files` by path, and gives the server's address and the list of requests that it answered, "GET /path" or, for the
    rest of a file, "GET /path from 1000". Other paths do not exist."""
    requests: list[str] = []
    served = {path: file if isinstance(file, File) else File(file) for path, file in files.items()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            requests.append(f"HEAD {self.path}")
            self._answer(served.get(self.path), 0, None)

        def do_GET(self) -> None:
            file = served.get(self.path)
            start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            same = file is not None and self.headers.get("If-Range") == file.announced
            begin = int(start[1]) if start and same and file.ranges else None
            requests.append(f"GET {self.path}" + (f" from {begin}" if begin is not None else ""))
            if file is not None and file.busy:
                file.busy -= 1
                file = dataclasses.replace(file, status=503)
            self._answer(file, begin or 0, begin)

        def _answer(self, file: File | None, begin: int, ranged: int | None) -> None:
            if file is None or file.status != 200:
                status = 404 if file is None else file.status
                self.send_response(status)
                if status == 404:
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = bytes([file.body[0] ^ 1]) + file.body[1:] if file.corrupted else file.body
            body = body[begin:]
            self.send_response(200 if ranged is None else 206)
            self.send_header("X-Repo-Commit", "0123456789" * 4)
            if file.announced is not None:
                self.send_header("ETag", file.announced)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if served[self.path].cut:
                body = body[: served[self.path].cut.pop(0)]
                self.close_connection = True
            with contextlib.suppress(ConnectionError):
                for place in range(0, len(body), 1 << 16):
                    self.wfile.write(body[place : place + (1 << 16)])
                    time.sleep(file.seconds_per_chunk)

        def log_message(self, *_: object) -> None:
            """Nothing: requests are recorded instead."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
