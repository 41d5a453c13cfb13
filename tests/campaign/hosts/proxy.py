"""The network of one host, as far as its server is concerned: a proxy that a trial cuts and disturbs.

A proxy for bytes passes them on in both directions. A proxy for HTTP takes one request a connection, so that it
can give an answer of its own, and knows whether the server has done what it was asked.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from .namespace import Namespace

__all__ = ["Proxy"]

_CHUNK = 1 << 16
#: Seconds between two looks whether the network is there again.
_LOOK = 0.02
#: Answers of a server that has, or has not, done what it was asked.
_REFUSALS = {
    409: ("Conflict", "ConditionalRequestConflict"),
    412: ("Precondition Failed", "PreconditionFailed"),
    429: ("Too Many Requests", "TooManyRequests"),
    500: ("Internal Server Error", "InternalError"),
}


class Proxy:
    """A port of loopback behind which a server is. Each attribute may be set at any time.

    *is_cut*: nothing comes through; *is_silent*: then packets vanish, else connections are refused. *loses*: the
    part of all answers to writes that do not come back; *refuses*: the part of those to which the proxy says one
    of the statuses 409, 412, 429 and 500, after it has passed half of them on. Both are for HTTP; for bytes,
    *loses* is a part of all answers.
    """

    def __init__(
        self,
        port: int,
        *,
        is_http: bool,
        seed: int,
        server: str = "127.0.0.1",
        listens: str = "127.0.0.1",
        namespace: Namespace | None = None,
    ) -> None:
        """*server*: the address of the server; *listens*: of this proxy; *namespace*: where its two sides are."""
        self._server, self._is_http = (server, port), is_http
        self._random = random.Random(seed)
        self.is_cut = self.is_silent = False
        self.loses = self.refuses = 0.0
        self._open: set[socket.socket] = set()

        def listen() -> socket.socket:
            listener = socket.create_server((listens, 0), backlog=64)
            self._start(self._listen, listener)
            return listener

        self._listener = listen() if namespace is None else namespace.call(listen)
        self.port: int = self._listener.getsockname()[1]

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._hang_up()

    def cut(self, *, is_silent: bool) -> None:
        """Cut the network; connections that are open end, or hang."""
        self.is_silent, self.is_cut = is_silent, True
        if not is_silent:
            self._hang_up()

    def mend(self) -> None:
        """Have the network back; what hung meanwhile is lost."""
        self.is_cut = False
        if self.is_silent:
            self._hang_up()

    def _hang_up(self) -> None:
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _start(self, do: Callable[..., None], *args: object) -> threading.Thread:
        thread = threading.Thread(target=do, args=args, daemon=True)
        thread.start()
        return thread

    def _listen(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        self._open.add(client)
        try:
            with client:
                if self.is_cut and not self.is_silent:
                    return
                self._wait_for_network()
                with socket.create_connection(self._server, timeout=30) as server:
                    server.settimeout(None)
                    self._open.add(server)
                    try:
                        (self._exchange if self._is_http else self._pump)(client, server)
                    finally:
                        self._open.discard(server)
        except OSError:
            pass  # one of both has gone
        finally:
            self._open.discard(client)

    def _wait_for_network(self) -> None:
        while self.is_cut:
            time.sleep(_LOOK)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        back = self._start(self._pump_back, server, client)
        while data := client.recv(_CHUNK):
            self._wait_for_network()
            server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        back.join()

    def _pump_back(self, server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(_CHUNK):
                self._wait_for_network()
                if self._random.random() < self.loses:
                    break
                client.sendall(data)
        except OSError:
            pass
        for each in (client, server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _exchange(self, client: socket.socket, server: socket.socket) -> None:
        request = _whole_request(client)
        writes = request.startswith((b"PUT", b"POST"))
        chance = self._random.random()
        refuses = writes and chance < self.refuses
        if refuses and self._random.random() < 0.5:
            client.sendall(self._refusal())
            return
        self._wait_for_network()
        line, _, rest = request.partition(b"\r\n")
        server.sendall(line + b"\r\nConnection: close\r\n" + _without_connection(rest))
        answer = b"".join(iter(lambda: server.recv(_CHUNK), b""))
        self._wait_for_network()
        if refuses:
            answer = self._refusal()
        elif writes and chance < self.loses:
            return
        client.sendall(answer)

    def _refusal(self) -> bytes:
        status = self._random.choice(list(_REFUSALS))
        reason, code = _REFUSALS[status]
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>trial</Message></Error>"
        head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/xml\r\nConnection: close\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def _whole_request(client: socket.socket) -> bytes:
    """Return a request with its body, whose length its head tells.

    :raises OSError: if it ends before.
    """
    data = b""
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        if end:
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if len(body) >= (int(lengths[0].partition(b":")[2]) if lengths else 0):
                return data
        more = client.recv(_CHUNK)
        if not more:
            raise OSError("half a request")
        data += more


def _without_connection(rest: bytes) -> bytes:
    head, end, body = rest.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    return b"\r\n".join(lines) + end + body
