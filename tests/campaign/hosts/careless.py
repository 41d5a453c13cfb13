"""A server with as much of S3 as one object needs, which ignores every condition."""

from __future__ import annotations

import hashlib
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__: list[str] = []

_objects: dict[str, bytes] = {}
_LIST = b"<?xml version='1.0'?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        contents = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        _objects[self.path.partition("?")[0]] = contents
        self._say(200, b"", contents)

    def do_GET(self) -> None:
        if "list-type" in self.path:
            self._say(200, _LIST, _LIST)
            return
        contents = _objects.get(self.path.partition("?")[0])
        self._say(404 if contents is None else 200, contents or b"", contents or b"")

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        _objects.pop(self.path.partition("?")[0], None)
        self._say(204, b"", b"")

    def _say(self, status: int, body: bytes, contents: bytes) -> None:
        self.send_response(status)
        self.send_header("ETag", f'"{hashlib.md5(contents).hexdigest()}"')
        self.send_header("Last-Modified", self.date_time_string())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()
