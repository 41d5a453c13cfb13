"""An engine that writes down each request of a worker, before it is made and when it is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from dogpile_fs._dogpile.engine import Sink
from dogpile_fs._dogpile.head import HeadDamaged, decode_head
from dogpile_fs.origin import UNCHANGED, Down, Engine, Gone, Lost, Origin

from ..history import Journal
from .steps import Steps, kind_of_write

__all__ = ["record_requests"]

T = TypeVar("T")
_ANSWERS: dict[type[BaseException], str] = {Lost: "lost", Down: "down", Gone: "gone"}


def record_requests(journal: Journal, steps: Steps) -> None:
    """Have all origins of this process write their requests to *journal*, but for their conformance probes, and
    tell *steps* of them."""
    make: Callable[[Origin], Engine] = Origin._engine

    def recorded(origin: Origin) -> Engine:
        engine = make(origin)
        return engine if "/conformance" in origin.url else _Recorded(engine, journal, steps)

    Origin._engine = recorded  # type: ignore[assignment,method-assign]


class _Recorded:
    def __init__(self, engine: Engine, journal: Journal, steps: Steps) -> None:
        self._engine, self._journal, self._steps = engine, journal, steps

    def read(self, known: str = "", *, seconds: float = 5.0) -> Any:
        def told(answer: Any) -> dict[str, Any]:
            if answer == UNCHANGED:
                return {"answer": "unchanged"}
            return {
                "answer": "found",
                "state": _state(None if answer is None else answer[0]),
                "tag": "" if answer is None else answer[1],
            }

        return self._ask("look", lambda: self._engine.read(known, seconds=seconds), told, tag=known)

    def swap(self, value: bytes, tag: str | None) -> str:
        return self._ask(
            "swap",
            lambda: self._engine.swap(value, tag),
            lambda new: {"answer": "won", "tag": new},
            step=kind_of_write(value),
            tag=tag,
            state=_state(value),
        )

    def now(self) -> float:
        return self._ask("now", self._engine.now)

    def put(self, name: str, path: str) -> None:
        self._ask("put", lambda: self._engine.put(name, path), name=name)

    def get(self, name: str, file: Sink, size: int) -> None:
        self._ask("get", lambda: self._engine.get(name, file, size), name=name)

    def blobs(self) -> Iterator[tuple[str, float]]:
        return self._engine.blobs()

    def remove(self, name: str) -> None:
        self._engine.remove(name)

    def discard(self) -> None:
        self._engine.discard()

    def close(self) -> None:
        self._engine.close()

    def _ask(
        self,
        what: str,
        ask: Callable[[], T],
        told: Callable[[T], dict[str, Any]] = lambda answer: {},
        step: str = "",
        **more: Any,
    ) -> T:
        step = step or what
        self._steps.reach(f"{step}.before")
        beats = threading.current_thread().name.startswith("dogpile_fs: heartbeat")
        op = self._journal.begin(what, beats=beats, **more)
        try:
            answer = ask()
        except BaseException as error:
            said = _ANSWERS.get(type(error), type(error).__name__)
            self._journal.note(op, "ended", answer=said, message=str(error)[:200])
            raise
        self._journal.note(op, "ended", **told(answer))
        self._steps.reach(f"{step}.after")
        return answer


def _state(value: bytes | None) -> dict[str, Any] | None:
    if value is None:
        return {}
    try:
        head = decode_head(value)
    except HeadDamaged:
        return None
    return {
        "lineage": head.lineage,
        "generation": head.record.generation,
        "sha": "" if head.blob is None else head.blob.name,
        "published": head.published,
        "attempt": head.attempt,
    }
