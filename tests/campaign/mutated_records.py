"""Sidecars as no creation writes them: made from sound records, and altered where a decoder could fail.

All of it comes from a ``random.Random``: the same seed gives the same bytes. Most of it is under a correct
checksum, because bytes that the checksum refuses test nothing but the checksum. It is meant to be fast, so it puts
texts together and does not go through ``json``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from random import Random

from dogpile_fs._sidecar.record import CHECKSUM_AT, FIELDS, SIZE

__all__ = ["MutatedRecords", "sealed"]

#: Values for a moment or a number of seconds.
_FLOATS = (
    b"1000.0 1732217000.25 -1.0 0.0 -0.0 0.5 3600.0 5e-324 1e308 1.7976931348623157e308 -1.7976931348623157e+308 "
    b"1e400 -1e400 1E5 1e-400 NaN Infinity -Infinity 1.0000000000000002 9007199254740993.0 2147483648.0 -3e9 1000"
).split()
#: Values for a count, or for one of the numbers that describe a file.
_INTEGERS = (
    b"0 1 2 7 -1 -0 3584 3583 65536 2147483648 4294967296 9223372036854775807 9223372036854775808 "
    b"-9223372036854775809 18446744073709551616 79228162514264337593543950336 true false 1.0 1e3 0x1 01 +1 1_000"
).split()
_INTEGERS += [b"9" * digits for digits in (30, 60, 120, 200, 300, 400)] + [b"-" + b"9" * 300]
_TEXTS = [
    b'""',
    b'"here"',
    b'"web1.example.org"',
    b'"' + b"x" * 64 + b'"',
    b'"' + b"x" * 250 + b'"',
    b'"\\ud800"',
    b'"\\udc80\\udcff"',
    b'"\\ud83d\\ude00"',
    b'"\\ude00\\ud83d"',
    b'"\\ud800\\ud83d\\ude00\\udc00"',
    b'"\\u0000"',
    b'"\\n\\r\\u2028\\u001b[2J"',
    b'"\\x"',
    b'"\\u12"',
    b'"\n"',
    b'"open',
    b"'here'",
    '"b\u00fcro\u6771"'.encode(),
    b'"\xff\xfe"',
    b'"\xed\xa0\xbd\xed\xb8\x80"',  # a pair of surrogates, each by itself, as UTF-8 would have it
    b'"\xed\xa0\x80"',
    b'"\xc0\x80"',
    b'"' + b"\\ud83d\\ude00" * 20 + b'"',
]
_OTHERS = [
    b"null",
    b"true",
    b"false",
    b"{}",
    b"[]",
    b"[[]]",
    b'{"dogpile_fs": 1}',
    b'"soft"',
    b'"hard"',
    b'["soft"]',
    b'"Soft"',
    b"[" * 200 + b"]" * 200,
    b"[" * 400,
    b'{"":' * 100,
    b"",
    b" ",
    b"nul",
    b"//",
    b"undefined",
]
_LARGEST_FINGERPRINT = b'["untagged", %d, %d, %d]' % (2**64, -(2**96), 2**64)
_FINGERPRINTS = [
    b'["file", %d, 3, 4]' % (2**64 + 1),
    b"null",
    b'["file", 2, 3, 4]',
    b'["unknown", 0, -3, 4]',
    b'["file", -1, 3, 4]',
    b'["file", 1, 3, -4]',
    b'["door", 1, 3, 4]',
    b"[0, 0, 0, 0]",
    b'["file", 2, 3]',
    b'["file", 2, 3, 4, 5]',
    b'["file", 2, 3, true]',
    b'["file", 2, 3.0, 4]',
    b'{"file": 2}',
    b'"1234"',
    b'["file", 9223372036854775807, -9223372036854775808, 18446744073709551615]',
    b'["file", ' + b"9" * 300 + b", 3, 4]",
    b'["tagged", 0, -62135596800000000000, 4]',
    b'[["file"], 2, 3, 4]',
    b'["file", null, 3, 4]',
]
_ATTEMPTS = [
    b"null",
    b'{"host": "there", "pid": 8, "since": 1001.5}',
    b'{"host": "", "pid": 0, "since": -1.0}',
    b'{"host": "there", "pid": 8}',
    b'{"host": "there", "pid": 8, "since": 1001.5, "deadline": 1005.5, "kind": "process"}',
    b'{"host": "there", "pid": 8, "since": 1001.5, "boot": "0123456789abcdef", "pid_ns": 4026531836}',
    b'{"host": "there", "pid": 8, "since": 1001.5, "boot": "not a boot"}',
    b'{"host": "there", "pid": 8, "since": 1001.5, "self": 1}',
    b'{"host": "there", "pid": -8, "since": 1001.5}',
    b'{"host": "there", "pid": true, "since": 1001.5}',
    b'{"host": "there", "pid": 8, "since": 1001}',
    b'{"host": "there", "pid": 8, "since": NaN}',
    b'{"host": "there", "pid": 8, "since": 1e400}',
    b'["there", 8, 1001.5]',
    b'{"host": "' + b"x" * 250 + b'", "pid": 8, "since": 1001.5}',
    b'{"host": "\\ud800", "pid": 8, "since": 1001.5}',
    b'{"host": "\xed\xa0\xbd\xed\xb8\x80", "pid": 8, "since": 1.5}',
    b'{"host": "there", "pid": ' + b"9" * 250 + b', "since": 1001.5}',
    b'{"host": "there"}',
    b"{}",
    b'"abc"',
]
_VERSIONS = [b"1", b"1", b"1", b"0", b"-1", b"2", b"1.0", b"true", b"null", b'"1"', b"9" * 300, b"[1]"]
#: Each field: its name, values of a sound record, and values that this field in particular may fail on.
_FIELDS: list[tuple[bytes, list[bytes], list[bytes]]] = [
    (b'"dogpile_fs"', [b"1"], _VERSIONS),
    (b'"createdtime"', [b"-1.0", b"1000.0", b"1732217000.25", b"1e300", b"-1.7976931348623157e+308"], _FLOATS),
    (b'"generation"', [b"0", b"3", b"3583", b"9007199254740992"], _INTEGERS),
    (b'"cost"', [b"0.0", b"0.25", b"86400.5", b"-1.7976931348623157e+308"], _FLOATS),
    (b'"host"', [b'""', b'"here"', b'"b\\u00fcro"'], _TEXTS),
    (b'"pid"', [b"0", b"7", b"4194304", b"4294967296"], _INTEGERS),
    (b'"invalidated"', [b"null", b"null", b'"soft"', b'"hard"'], _OTHERS),
    (b'"invalidations"', [b"0", b"2", b"9007199254740992"], _INTEGERS),
    (b'"hard_invalidations"', [b"0", b"1", b"9007199254740992"], _INTEGERS),
    (b'"expiretime"', [b"null", b"0.0", b"10.0", b"3600.0", b"1e300"], _FLOATS),
    (
        b'"fingerprint"',
        [b"null", b'["file", 2, 3, 4]', b'["tagged", 0, 1732217000250000000, 12]', _LARGEST_FINGERPRINT],
        _FINGERPRINTS,
    ),
    (b'"fingerprint_generation"', [b"0", b"3", b"9007199254740992"], _INTEGERS),
    (
        b'"attempt"',
        [
            b"null",
            b'{"host": "there", "pid": 8, "since": 1001.5}',
            b'{"host": "", "pid": 4294967296, "since": -1.7976931348623157e+308, "kind": "process"}',
        ],
        _ATTEMPTS,
    ),
    (b'"lifetime"', [b"null", b"null", b"0.0", b"10.0", b"1e300"], _FLOATS),
    (b'"max_stale"', [b"null", b"null", b"0.0", b"60.0", b"1e300"], _FLOATS),
    (b'"stale_since"', [b"null", b"1000.0", b"1732217000.25", b"-1.7976931348623157e+308"], _FLOATS),
    (b'"invalidated_at"', [b"null", b"1000.0", b"1732217000.25"], _FLOATS),
    (b'"note"', [b'""', b'"W/abc"', b'"' + b"n" * 96 + b'"'], [*_TEXTS, b'"' + b"n" * 97 + b'"']),
    (b'"inputs"', [b"null", b'"' + b"0f" * 16 + b'"'], _TEXTS),
    (b'"failures"', [b"0", b"3", b"9007199254740992"], _INTEGERS),
    (b'"failures_total"', [b"0", b"7", b"9007199254740992"], _INTEGERS),
    (b'"first_failed_at"', [b"null", b"999.0"], _FLOATS),
    (b'"failed_at"', [b"null", b"1000.0", b"1732217000.25", b"1e300", b"-1.7976931348623157e+308"], _FLOATS),
    (b'"retry_after"', [b"0.0", b"2.0", b"1e300"], _FLOATS),
    (b'"failed_type"', [b'""', b'"died"', b'"OSError"', b'"' + b"x" * 48 + b'"'], _TEXTS),
    (b'"failed_pid"', [b"0", b"7", b"4294967296"], _INTEGERS),
    (b'"changes"', [b"0", b"7", b"9007199254740992"], _INTEGERS),
]
#: The group of each field; what else is there is put into any.
_GROUPS = (b'"version"', b'"failures"', b'"resource"')
_GROUP_OF = {b'"%s"' % name.encode(): b'"%s"' % field.group.encode() for name, field in FIELDS.items()}
_ANYTHING = [*_FLOATS, *_INTEGERS, *_TEXTS, *_OTHERS, *_FINGERPRINTS, *_ATTEMPTS]
_NAMES = [b'"more"', b'""', b'"host "', b'"Host"', b"host", b'"self"', b'"\\u0068ost"', b'"\xff"', b"1", b"null"]
_SEPARATORS = [(b", ", b": ")] * 6 + [
    (b",", b":"),
    (b",\n", b":\t"),
    (b" , ", b" : "),
    (b";", b": "),
    (b",,", b"="),
]
_ENCODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7"]
_WHOLE_TEXTS = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"1",
    b'"dogpile_fs"',
    b"NaN",
    b"9" * (CHECKSUM_AT),
    b"-" + b"9" * (CHECKSUM_AT - 1),
    b"[" * CHECKSUM_AT,
    b'{"a":' * 100,
    b"[" * 250 + b"]" * 250,
    b"\0" * CHECKSUM_AT,
    b"\xff\xfe" + b"[\0" * 250,
    b'{"dogpile_fs": 2}',
    b'{"dogpile_fs": 1}',
    b'{"dogpile_fs": ' + b"9" * 480 + b"}",
    b'{"dogpile_fs": 2, "dogpile_fs": 1}',
]


def sealed(body: bytes) -> bytes:
    """Return *body*, cut or padded to its length, under a correct checksum."""
    body = body[:CHECKSUM_AT].ljust(CHECKSUM_AT)
    return body + b"%08x\n" % zlib.crc32(body)


class MutatedRecords:
    """Random alterations of sound records; *kinds* counts them by the name of the alteration."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.kinds: dict[str, int] = {}
        # The share of each is how often it is in this list.
        self._ways: list[Callable[[], bytes]] = [
            *[self.with_other_values] * 9,
            self.with_other_values_unsealed,
            *[self.with_other_names] * 3,
            self.with_another_text,
            self.in_another_encoding,
            *[self.with_other_bytes] * 2,
            self.torn,
            self.of_another_length,
            self.noise,
        ]

    def next(self) -> bytes:
        """Return one more."""
        way = self._ways[self._below(len(self._ways))]
        name = way.__name__
        self.kinds[name] = self.kinds.get(name, 0) + 1
        return way()

    def altered(self, data: bytes) -> bytes:
        """Return *data* with some of its bytes changed, mostly under a new checksum; for a fuzzer that has *data*
        already."""
        if self._below(8) == 0:
            return self.next()
        body = self._scribbled(data[:CHECKSUM_AT])
        return sealed(body) if self._below(8) else body + data[CHECKSUM_AT:]

    def with_other_values(self) -> bytes:
        """Return a record with up to three wrong values; with none it is sound."""
        return sealed(self._text(self._below(4)))

    def with_other_values_unsealed(self) -> bytes:
        return self._text(self._below(4)).ljust(CHECKSUM_AT)[:CHECKSUM_AT] + b"%08x\n" % self._below(1 << 32)

    def with_other_names(self) -> bytes:
        """Return a record with fields missing, twice, out of order, or with other names."""
        pairs = self._pairs(self._below(2))
        for _ in range(1 + self._below(2)):
            at, other = self._below(len(pairs)), self._below(len(pairs))
            match self._below(5):
                case 0:
                    del pairs[at]
                case 1:
                    pairs.insert(other, (pairs[at][0], self._one_of(_ANYTHING)))
                case 2:
                    pairs[at], pairs[other] = pairs[other], pairs[at]
                case 3:
                    pairs[at] = (self._one_of(_NAMES), pairs[at][1])
                case _:
                    pairs.append(pairs[at])
        return sealed(self._joined(pairs))

    def with_another_text(self) -> bytes:
        """Return JSON, or nearly, that is no record."""
        text = self._one_of(_WHOLE_TEXTS if self._below(2) else _ANYTHING)
        return sealed(text if self._below(4) else text + self._text(0))

    def in_another_encoding(self) -> bytes:
        text = self._text(self._below(2)).replace(b" ", b"").decode("utf-8", "replace")
        return sealed(text.encode(_ENCODINGS[self._below(len(_ENCODINGS))]))

    def with_other_bytes(self) -> bytes:
        """Return a record with bytes overwritten, under a correct checksum or the one before."""
        data = sealed(self._text(self._below(2)))
        if self._below(4):
            return sealed(self._scribbled(data[:CHECKSUM_AT]))
        return self._scribbled(data)

    def torn(self) -> bytes:
        """Return the beginning of one record and the end of another, as half a write leaves it."""
        at = self._below(SIZE + 1)
        mixed = sealed(self._text(0))[:at] + sealed(self._text(self._below(2)))[at:]
        return sealed(mixed) if self._below(2) else mixed

    def of_another_length(self) -> bytes:
        data = sealed(self._text(0))
        if self._below(2):
            return data[: self._below(SIZE + 1)]
        return data + self._one_of([b"\0", b"\n", b" ", b"\0" * SIZE, data]) * (1 + self._below(8))

    def noise(self) -> bytes:
        length = SIZE if self._below(2) else self._below(2 * SIZE)
        data = self._random.randbytes(length)
        return sealed(data) if self._below(2) else data

    def _text(self, changes: int) -> bytes:
        return self._joined(self._pairs(changes))

    def _pairs(self, changes: int) -> list[tuple[bytes, bytes]]:
        number = self._random.random
        pairs = [(name, sound[int(number() * len(sound))]) for name, sound, _ in _FIELDS]
        for _ in range(changes):
            at = int(number() * len(_FIELDS))
            name, _, own = _FIELDS[at]
            pairs[at] = (name, self._one_of(own if number() < 0.75 else _ANYTHING))
        return pairs

    def _joined(self, pairs: list[tuple[bytes, bytes]]) -> bytes:
        between, within = _SEPARATORS[self._below(len(_SEPARATORS))]
        groups: dict[bytes, list[bytes]] = {group: [] for group in _GROUPS}
        top = []
        for name, value in pairs:
            if name == b'"dogpile_fs"':
                top.append(name + within + value)
            else:
                groups[_GROUP_OF.get(name) or self._one_of(list(_GROUPS))].append(name + within + value)
        top += [name + within + b"{" + between.join(values) + b"}" for name, values in groups.items()]
        if self._below(50) == 0:
            top[self._below(len(top))] = self._one_of(list(_GROUPS)) + within + self._one_of(_ANYTHING)
        return b"{" + between.join(top) + b"}"

    def _scribbled(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(1 + self._below(4)):
            at = self._below(len(changed) + 1)
            match self._below(4):
                case 0:
                    changed[at : at + 1] = bytes((self._below(256),))
                case 1:
                    changed[at:at] = self._one_of(_ANYTHING)
                case 2:
                    del changed[at : at + 1 + self._below(8)]
                case _:
                    changed[at : at + 1] = b'0123456789-+.eE"\\[]{},: \0'[self._below(25) :][:1]
        return bytes(changed)

    def _one_of(self, values: list[bytes]) -> bytes:
        return values[int(self._random.random() * len(values))]

    def _below(self, bound: int) -> int:
        return int(self._random.random() * bound)
