"""What an origin needs of its engine, as interfaces: a register that is written by compare-and-swap, and blobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, Protocol

__all__ = ["UNCHANGED", "Blobs", "Down", "Engine", "Gone", "Hints", "Lost", "Register", "Sink", "Unchanged"]

Unchanged = Literal["unchanged"]
#: The answer to a conditional read.
UNCHANGED: Final = "unchanged"


class Lost(Exception):
    """The engine has refused a write: the register is not what it was, as far as this answer tells."""


class Down(Exception):
    """The engine gives no answer, or one that tells nothing: a write may have been made."""


class Gone(Exception):
    """There is no such blob, or it is not what was stored."""


class Sink(Protocol):
    """A file that is written to, and no more."""

    def write(self, data: bytes | memoryview, /) -> object: ...


class Register(Protocol):
    """One small value, which is replaced only by a caller that knows which one it replaces."""

    def read(self, known: str = "", *, seconds: float = 5.0) -> tuple[bytes, str] | Unchanged | None:
        """Return the value and its tag; ``None`` if there is none.

        :param known: a tag: the answer is ``UNCHANGED`` if the value has it still.
        :param seconds: within which the engine answers.
        :raises Down: if it does not.
        """

    def swap(self, value: bytes, tag: str | None) -> str:
        """Replace the value that has this *tag* by *value*, and return the new tag, which no value had before.

        :param tag: ``None``: there is no value yet.
        :raises Lost: if the value has another tag. A client that has tried again by itself may say so although its
            first try has succeeded.
        :raises Down: if that is not known.
        """

    def discard(self) -> None:
        """Remove the value, of a register that nothing else uses any more.

        :raises Down: if the engine does not answer.
        """

    def now(self) -> float:
        """Return epoch seconds by the engine's clock, or this host's where the engine tells none.

        :raises Down: if the engine does not answer.
        """


class Blobs(Protocol):
    """Files that are never changed, by name: 64 hexadecimal digits."""

    def put(self, name: str, path: str) -> None:
        """Store the file at *path*. Nothing has the name before all of it is stored.

        :raises Down: if it is not known to be stored.
        :raises OSError: if the file cannot be read.
        """

    def get(self, name: str, file: Sink, size: int) -> None:
        """Write the blob to *file*: at most *size* bytes of it, and one more if it has more.

        :raises Gone: if there is none.
        :raises Down: if the engine does not give all of it.
        :raises OSError: if *file* cannot be written.
        """

    def blobs(self) -> Iterator[tuple[str, float]]:
        """Yield the name of each blob, and its age in seconds.

        :raises Down: if the engine does not answer.
        """

    def remove(self, name: str) -> None:
        """Remove a blob if it is there.

        :raises Down: if the engine does not answer.
        """


class Engine(Register, Blobs, Protocol):
    """Both, for one origin."""

    def close(self) -> None:
        """Give up connections."""


class Hints(Protocol):
    """A way to tell other hosts at once that there is another head. A hint may be lost, or come twice."""

    def tell(self, tag: str) -> None:
        """Tell the others of the head with this *tag*.

        :raises Down: if that cannot be done within half a second.
        """

    def heard(self) -> Iterator[str]:
        """Yield ``""`` when hints can be heard, and then the tag of each as it comes. It does not end by itself.

        :raises Down: if the connection fails.
        """
