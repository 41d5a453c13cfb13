"""Whether an engine keeps the promises of :class:`~.engine.Register`: asked at the first write to an origin.

A server that ignores a condition lets two hosts publish, and says nothing. So it is tried: several clients write
at the same moment, and one may succeed. The answer is kept in the origin, beside the head.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress

from ..errors import OriginError, OriginUnfit
from .engine import UNCHANGED, Down, Engine, Lost
from .origin import Origin

__all__ = ["find_fault", "refuse_unfit"]

log = logging.getLogger("dogpile_fs")

#: Clients that write at the same moment, and how often.
_CLIENTS, _ROUNDS = 4, 3
_FIT = {"dogpile_fs_origin": "fit", "probe": 1}


def refuse_unfit(origin: Origin) -> None:
    """Try the engine of *origin*, if that was not done before.

    :raises OriginUnfit: if it ignores a condition.
    :raises Down: if it does not answer.
    """
    url = origin.url.rstrip("/")
    origin._engine().now()  # makes the directory that it is in
    kept = Origin(f"{url}/conformance")._engine()
    found = kept.read()
    assert not isinstance(found, str)
    if found is not None and _is_fit(found[0]):
        return
    # Other hosts may try at the same time, so each does it beside the others.
    fault = find_fault(Origin(f"{url}/conformance-{secrets.token_hex(4)}")._engine)
    if not fault:
        with suppress(Lost):
            kept.swap(json.dumps(_FIT).encode(), None if found is None else found[1])
    else:
        raise OriginUnfit(
            origin.url,
            f"the server of the origin {origin.url!r} is not fit: {fault}. Two hosts could publish at the same "
            "time, and neither would know. Hint: use a server with conditional writes, or a shared directory.",
        )


def _is_fit(value: bytes) -> bool:
    try:
        told = json.loads(value)
        return isinstance(told, dict) and all(told.get(name) == each for name, each in _FIT.items())
    except ValueError:
        return False


def find_fault(engine: Callable[[], Engine]) -> str:
    """Return which condition the engine ignores; "" if it keeps all.

    :param engine: makes a client of a register that nothing else uses. It is discarded at the end.
    :raises Down: if it does not answer.
    """
    clients = [engine() for _ in range(_CLIENTS)]
    try:
        return _fault(clients)
    finally:
        with suppress(Down):
            clients[0].discard()
        for client in clients:
            client.close()


def _fault(clients: list[Engine]) -> str:
    one = clients[0]
    found = one.read()
    assert found != UNCHANGED
    tag, races = None if found is None else found[1], 0
    for number in range(_ROUNDS):
        won = _race(clients, tag)
        if len(won) > 1:
            races += 1
            which = "create (If-None-Match)" if tag is None else "replace (If-Match)"
            fault = f"of {_CLIENTS} clients that asked to {which} at the same moment, {len(won)} had success"
            if races > 1:
                return fault
            log.warning("the server of an origin keeps its conditions, but not at the same moment: %s", fault)
            won = []
        before, found = tag, one.read()
        if found is None or found == UNCHANGED:
            return "what was written cannot be read"
        tag = found[1]
        if tag == before:
            return "what was written has the tag of what was there before"
        if won and found[0] != won[0]:
            return "what is read is not what was written last"
        if not _is_refused(one, None):
            return "a client that asked to create what is there already (If-None-Match) had success"
        if number and not _is_refused(one, before):
            return "a client that asked to replace what is no longer there (If-Match) had success"
    return ""


def _is_refused(engine: Engine, tag: str | None) -> bool:
    try:
        engine.swap(_value(), tag)
    except (Lost, Down):  # some servers answer a client that has lost with an error of their own
        return True
    return False


def _race(clients: list[Engine], tag: str | None) -> list[bytes]:
    """Have all *clients* replace the value with this *tag* at the same moment; return what was written."""
    start, won, failures = threading.Barrier(len(clients)), list[bytes](), list[Exception]()

    def write(client: Engine) -> None:
        value = _value()
        start.wait()
        try:
            client.swap(value, tag)
            won.append(value)
        except (Lost, Down):
            pass
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        raise failure if isinstance(failure, OriginError) else Down(repr(failure))
    return won


def _value() -> bytes:
    return json.dumps({"dogpile_fs_origin": "probe", "nonce": secrets.token_hex(8)}).encode()
