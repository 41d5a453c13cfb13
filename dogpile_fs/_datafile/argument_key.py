"""Arguments of a call as text: the same for two calls with the same arguments, and another one for all others.

Only values of types that are known here have a text, exactly: a subclass may mean something else by equal
contents, and what ``repr`` says of other objects may differ from process to process. ``1``, ``1.0`` and ``True``
are different, because a function may make something else of each.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from hashlib import blake2b
from typing import Any

__all__ = ["argument_key"]

#: Types that are told apart by ``repr``, by module and name: most programs import few of them.
_BY_REPR = {
    ("builtins", "NoneType"),
    ("builtins", "bool"),
    ("builtins", "bytes"),
    ("builtins", "complex"),
    ("builtins", "ellipsis"),
    ("builtins", "float"),
    ("builtins", "int"),
    ("builtins", "range"),
    ("builtins", "str"),
    ("datetime", "date"),
    ("datetime", "timedelta"),
    ("datetime", "timezone"),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "PurePosixPath"),
    ("uuid", "UUID"),
    ("zoneinfo", "ZoneInfo"),
}
#: The same, if their time zone is one of those types, or none.
_WITH_TIME_ZONE = {("datetime", "datetime"), ("datetime", "time")}
#: Characters of a call's text that are kept as they are; of a longer one, as many, and a digest of all.
_LONGEST = 512
_KEPT = 64


def argument_key(name: str, signature: inspect.Signature, arguments: Any, keywords: Any) -> str:
    """Return the text of a call with these *arguments* and *keywords* of the function with this *signature*.

    :param name: of the function, for messages.
    :raises TypeError: if the function does not take them, or one of them has no text.
    """
    try:
        bound = signature.bind(*arguments, **keywords)
    except TypeError as error:
        raise TypeError(f"{name}() {error}") from None
    bound.apply_defaults()
    parts = []
    for parameter, value in bound.arguments.items():
        try:
            parts.append(f"{parameter}={_text(value)}")
        except _NotTold as error:
            raise TypeError(
                f"{name}() cannot be cached for {parameter}={value!r}: {error}, which cannot be told from another "
                "one reliably. Hint: give what it is made from, such as a number or a name."
            ) from None
        except RecursionError:
            raise TypeError(f"{name}() cannot be cached for {parameter}: it is nested too deeply") from None
    text = ", ".join(parts)
    if len(text) > _LONGEST:
        text = f"{text[:_KEPT]} {blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=32).hexdigest()}"
    return text


class _NotTold(Exception):
    """A value has no text."""


def _text(value: object) -> str:
    kind = type(value)
    writer = _OF_CONTAINERS.get(kind)
    if writer is not None:
        return writer(value)
    named = kind.__module__, kind.__qualname__
    if named in _BY_REPR:
        return repr(value)
    if named in _WITH_TIME_ZONE and (value.tzinfo is None or _text(value.tzinfo)):  # type: ignore[attr-defined]
        return repr(value)
    if isinstance(value, Enum) and value.name is not None and "<locals>" not in kind.__qualname__:
        return f"{kind.__module__}.{kind.__qualname__}.{value.name}"
    raise _NotTold(f"it has an object of type {kind.__module__}.{kind.__qualname__}")


def _text_of_dict(value: Any) -> str:
    return f"{{{', '.join(sorted(f'{_text(key)}: {_text(each)}' for key, each in value.items()))}}}"


_OF_CONTAINERS: dict[type, Callable[[Any], str]] = {
    tuple: lambda value: f"({', '.join(map(_text, value))},)",
    list: lambda value: f"[{', '.join(map(_text, value))}]",
    set: lambda value: f"set({', '.join(sorted(map(_text, value)))})",
    frozenset: lambda value: f"frozenset({', '.join(sorted(map(_text, value)))})",
    dict: _text_of_dict,
}
