"""Object storage for the example: moto's S3, served on a Unix socket: ``storage.py SOCKET RECORD``.

moto looks at a condition and writes in two steps, between which another request may come. So one request at a time
is given to it. Each is a line in the file RECORD.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from fleet.record import append


class OneAtATime:
    """Gives whole requests to an *application*, one at a time."""

    def __init__(self, application: WSGIApplication, record: Path) -> None:
        self._application, self._record = application, record
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # A client that is cut off in the middle of its request must not keep the others waiting.
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        with self._lock:
            parts: Any = self._application(environ, start_response)
            try:
                answer = list(parts)
            finally:
                if hasattr(parts, "close"):
                    parts.close()
        line = {"time": time.time(), "method": environ["REQUEST_METHOD"], "path": environ["PATH_INFO"]}
        append(self._record, line)
        return answer


def main(socket: str, record: str) -> None:
    """Serve until the process is ended."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    application = OneAtATime(DomainDispatcherApplication(create_backend_app), Path(record))
    run_simple(f"unix://{socket}", 0, application, threaded=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
