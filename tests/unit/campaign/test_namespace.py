"""A host of a trial that runs as root: a network namespace, whose link is set down."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.campaign.hosts.namespace import Namespace, can_be_made
from tests.campaign.hosts.proxy import Proxy

#: Seconds in which loopback answers, and by far; and in which TCP has sent again what was lost.
_SOON, _PATIENCE = 1.0, 60.0


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    if not can_be_made():
        pytest.skip("it needs root, ip(8) and nsenter(1)")
    made = Namespace()
    yield made
    made.remove()


def test_packets_of_a_host_that_is_cut_off_vanish_until_it_is_back(namespace: Namespace) -> None:
    with socket.create_server((namespace.outer, 0)) as server:
        address = server.getsockname()
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        with namespace.call(lambda: socket.create_connection(address, _PATIENCE)) as client:
            assert client.getsockname()[0] == namespace.inner
            client.sendall(b"one")
            assert client.recv(9) == b"one"
            namespace.cut()
            client.sendall(b"two")
            client.settimeout(_SOON)
            with pytest.raises(TimeoutError):
                client.recv(9)
            namespace.mend()
            client.settimeout(_PATIENCE)
            assert client.recv(9) == b"two"


def test_a_server_of_loopback_is_reached_by_the_loopback_of_the_namespace(namespace: Namespace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_echo, args=(server,), daemon=True).start()
        relay = Proxy(server.getsockname()[1], is_http=False, seed=1, listens=namespace.outer)
        proxy = Proxy(relay.port, is_http=False, seed=1, server=namespace.outer, namespace=namespace)
        address = "127.0.0.1", proxy.port
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, _PATIENCE)
        with namespace.call(lambda: socket.create_connection(address, _PATIENCE)) as client:
            client.sendall(b"one")
            assert client.recv(9) == b"one"
        proxy.close()
        relay.close()


def _echo(server: socket.socket) -> None:
    client, _ = server.accept()
    with client:
        while data := client.recv(9):
            client.sendall(data)
