"""ASGI: an application that sends a datafile. It needs anyio, which Starlette and FastAPI bring."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from anyio import CancelScope, to_thread

from .. import Datafile
from ._serving import Answer, answer_to

__all__ = ["DatafileApp"]

_Message = MutableMapping[str, Any]


class DatafileApp:
    """An ASGI application that answers each GET and HEAD with the current version of *datafile*.

    :param media_type: of the file; ``None``: by its name.

    Conditional requests and ranges are answered; ``docs/serving.rst`` has the headers. Threads open and read the
    file, and call the creator when a creation is due. While there is no version yet the answer is 503.

    >>> from dogpile_fs import Datafile
    >>> app = DatafileApp(Datafile("var/report.json", 3600, print))
    """

    def __init__(self, datafile: Datafile, media_type: str | None = None) -> None:
        self._datafile, self._media_type = datafile, media_type

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """Answer one request.

        :raises ValueError: for a scope that is no HTTP request.
        """
        if scope["type"] != "http":
            raise ValueError(f"a DatafileApp answers HTTP requests alone, not {scope['type']!r}")
        told: dict[str, str] = {}
        for name, value in scope["headers"]:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            told[key] = f"{told[key]}, {text}" if key in told else text
        answer, first = await to_thread.run_sync(partial(self._begin, scope["method"], told))
        try:
            headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            data = first
            while answer.body is not None:
                await send({"type": "http.response.body", "body": data, "more_body": True})
                data = await to_thread.run_sync(_read, answer)
            await send({"type": "http.response.body", "body": data, "more_body": False})
        finally:
            if answer.body is not None:
                with CancelScope(shield=True):
                    await to_thread.run_sync(answer.body.close)

    def _begin(self, method: str, told: dict[str, str]) -> tuple[Answer, bytes]:
        """Return the answer, and the begin of its body: small files take one call of a thread."""
        answer = answer_to(self._datafile, method, told.get, self._media_type)
        return answer, _read(answer)


def _read(answer: Answer) -> bytes:
    """Return the next piece of the body. With the last one the file is closed, and the answer has no body more."""
    body = answer.body
    if body is None:
        return b""
    try:
        data = body.read()
    except BaseException:
        body.close()
        raise
    if body.is_at_end:
        answer.body = None
        body.close()
    return data
