"""A proxy on loopback that can be told to lose answers, or to let nothing through."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Literal

__all__ = ["Proxy"]


class Proxy:
    """Forwards connections to *port*, as a ``with`` block.

    *mode*: ``"through"``; ``"cut"``: nothing comes through, and connections hang up. *losses*: how many answers to
    what was forwarded are lost; then all comes through again.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self.mode: Literal["through", "cut"] = "through"
        self.losses = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Hang up all connections, and refuse others."""
        self.mode = "cut"
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self.mode == "cut":
                client.close()
                continue
            try:
                upstream = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                client.close()
                continue
            self._open |= {client, upstream}
            threading.Thread(target=self._copy, args=(client, upstream, False), daemon=True).start()
            threading.Thread(target=self._copy, args=(upstream, client, True), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_answer and self.losses > 0:
                    self.losses -= 1
                    break
                if self.mode == "cut":
                    break
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()
