"""A server on this machine that speaks the part of the Hugging Face hub's protocol that downloads of one file need."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def serve(files: Mapping[str, bytes], corrupted: frozenset[str] = frozenset()) -> Iterator[tuple[str, list[str]]]:
    """Serves `files`, bodies by path, and gives the server's address and the list of requests that it answered.

    The first byte of those `corrupted` differs from what their announced SHA-256 was computed on. Other paths do not exist.
    """
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            requests.append(f"{self.command} {self.path}")
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            if body is None:
                self.send_header("X-Error-Code", "EntryNotFound")
                body = b""
            else:
                self.send_header("X-Repo-Commit", "0123456789" * 4)
                self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            if self.path in corrupted:
                body = bytes([body[0] ^ 1]) + body[1:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: requests are recorded instead."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
