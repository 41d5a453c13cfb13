"""Passes bytes from a TCP port on to a server: ``relay.py ADDRESS PORT TARGET``.

TARGET is ``HOST:PORT``, or the path of a Unix socket. The port is printed once the relay listens; 0 is any. As a
program of its own it can run inside a network namespace, and be stopped: then nothing comes through, and
connections outlast that, as when a cable is pulled.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import StreamReader, StreamWriter
from contextlib import suppress


async def _pump(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def relay(address: str, port: int, target: str) -> None:
    """Serve until the process is ended."""

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            if "/" in target:
                theirs, ours = await asyncio.open_unix_connection(target)
            else:
                host, _, number = target.rpartition(":")
                theirs, ours = await asyncio.open_connection(host, int(number))
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(_pump(reader, ours), _pump(theirs, writer))
        finally:
            ours.close()
            writer.close()

    server = await asyncio.start_server(serve, address, port)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(relay(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
