"""A datafile as the body of a response: the same answers by all adapters."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple
from wsgiref.util import setup_testing_defaults

import anyio
import pytest

from dogpile_fs import Backoff, Datafile
from dogpile_fs.integrations import _serving, asgi, wsgi

CONTENTS = b"0123456789" * 10


class Got(NamedTuple):
    """An answer, with the names of its headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


Ask = Callable[..., Got]


def ask_wsgi(datafile: Datafile, method: str = "GET", **headers: str) -> Got:
    environ: dict[str, Any] = {"REQUEST_METHOD": method}
    setup_testing_defaults(environ)
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    started: list[Any] = []
    body = wsgi.DatafileApp(datafile)(environ, lambda *told: started.extend(told))
    sent = b"".join(body)
    getattr(body, "close", lambda: None)()
    return Got(int(started[0].split()[0]), {name.lower(): value for name, value in started[1]}, sent)


def ask_asgi(
    datafile: Datafile, method: str = "GET", make: Callable[[Datafile], Any] = asgi.DatafileApp, **headers: str
) -> Got:
    told = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": "/", "query_string": b"", "headers": told}
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    anyio.run(lambda: make(datafile)(scope, receive, send))
    status, told = sent[0]["status"], sent[0]["headers"]
    body = b"".join(each["body"] for each in sent[1:])
    return Got(status, {name.decode(): value.decode() for name, value in told}, body)


def ask_starlette(datafile: Datafile, method: str = "GET", **headers: str) -> Got:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.routing import Route

    from dogpile_fs.integrations.starlette import DatafileResponse

    async def view(request: Request) -> DatafileResponse:
        return DatafileResponse(datafile, request)

    def make(datafile: Datafile) -> Starlette:
        return Starlette(routes=[Route("/", view, methods=["GET", "POST"])])

    return ask_asgi(datafile, method, make, **headers)


def ask_flask(datafile: Datafile, method: str = "GET", **headers: str) -> Got:
    from flask import Flask

    from dogpile_fs.integrations.flask import send_datafile

    app = Flask("app")
    app.add_url_rule("/", view_func=lambda: send_datafile(datafile), methods=["GET", "POST"])
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with app.test_client() as client, client.open("/", method=method, headers=named) as response:
        told = {name.lower(): value for name, value in response.headers}
        return Got(response.status_code, told, response.data)


def ask_django(datafile: Datafile, method: str = "GET", **headers: str) -> Got:
    from django.conf import settings

    if not settings.configured:
        settings.configure()
    from django.test import RequestFactory

    from dogpile_fs.integrations.django import datafile_response

    named: Any = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    response: Any = datafile_response(RequestFactory().generic(method, "/", **named), datafile)
    body = b"".join(response)
    response.close()
    return Got(response.status_code, {name.lower(): value for name, value in response.items()}, body)


ALL: dict[str, Ask] = {
    "wsgi": ask_wsgi,
    "asgi": ask_asgi,
    "starlette": ask_starlette,
    "flask": ask_flask,
    "django": ask_django,
}


@pytest.fixture(params=ALL)
def ask(request: pytest.FixtureRequest) -> Iterator[Ask]:
    before = descriptors()
    yield ALL[request.param]
    assert descriptors() <= before + 3  # those of the datafile, which keeps its sidecar open


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def create(target: str) -> None:
    Path(target).write_bytes(CONTENTS)


@pytest.fixture
def report(tmp_path: Path) -> Datafile:
    return Datafile(tmp_path / "report.json", 3600, create)


def test_a_get_sends_the_version_with_what_tells_of_it(ask: Ask, report: Datafile) -> None:
    got = ask(report)
    assert (got.status, got.body) == (200, CONTENTS)
    assert got.headers["content-length"] == "100"
    assert got.headers["content-type"].startswith("application/json")
    assert got.headers["accept-ranges"] == "bytes"
    age, stale = got.headers["cache-control"].split(", ")
    assert 3500 < int(age.removeprefix("max-age=")) <= 3600
    assert stale == "stale-while-revalidate=3600"
    assert got.headers["last-modified"] == formatdate(report.status().createdtime, usegmt=True)
    again = ask(report)
    assert again.headers["etag"] == got.headers["etag"]
    report.refresh(force=True)
    assert ask(report).headers["etag"] != got.headers["etag"]


def test_a_head_has_the_same_headers_and_no_body(ask: Ask, report: Datafile) -> None:
    got, head = ask(report), ask(report, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == "100"
    assert head.headers["etag"] == got.headers["etag"]
    assert ask(report, "HEAD", range="bytes=0-1").status == 200


def test_other_methods_are_refused(ask: Ask, report: Datafile) -> None:
    got = ask(report, "POST")
    assert (got.status, got.body) == (405, b"")
    assert got.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=0-9", 206, (0, 10)),
        ("bytes=95-", 206, (95, 100)),
        ("bytes=-5", 206, (95, 100)),
        ("bytes=-500", 206, (0, 100)),
        (f"bytes=-{'9' * 5000}", 206, (0, 100)),
        (f"bytes=90-{'9' * 5000}", 206, (90, 100)),
        ("BYTES=99-500", 206, (99, 100)),
        ("bytes=100-", 416, None),
        ("bytes=100-200", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=0-1,5-6", 200, None),
        ("bytes=5-1", 200, None),
        ("bytes=-", 200, None),
        ("lines=0-1", 200, None),
        ("bytes=a-b", 200, None),
    ],
)
def test_a_range_is_answered_by_the_rules(
    ask: Ask, report: Datafile, asked: str, status: int, expected: tuple[int, int] | None
) -> None:
    got = ask(report, range=asked)
    assert got.status == status
    if expected is not None:
        begin, end = expected
        assert got.body == CONTENTS[begin:end]
        assert got.headers["content-range"] == f"bytes {begin}-{end - 1}/100"
        assert got.headers["content-length"] == str(end - begin)
    elif status == 416:
        assert got.headers["content-range"] == "bytes */100"
        assert got.body == b""
    else:
        assert got.body == CONTENTS


def test_conditions_are_kept(ask: Ask, report: Datafile) -> None:
    tag, modified = (ask(report).headers[name] for name in ("etag", "last-modified"))
    earlier, later = (formatdate(time.time() + seconds, usegmt=True) for seconds in (-7200, 7200))
    for expected, conditions in (
        (304, {"if_none_match": tag}),
        (304, {"if_none_match": f'"other", W/{tag}'}),
        (304, {"if_none_match": "*"}),
        (200, {"if_none_match": '"other"'}),
        (200, {"if_none_match": '"other"', "if_modified_since": later}),
        (304, {"if_modified_since": modified}),
        (304, {"if_modified_since": later}),
        (200, {"if_modified_since": earlier}),
        (200, {"if_modified_since": "yesterday"}),
        (200, {"if_match": tag}),
        (412, {"if_match": f"W/{tag}"}),
        (412, {"if_match": '"other"'}),
        (412, {"if_unmodified_since": earlier}),
        (200, {"if_unmodified_since": later}),
        (206, {"range": "bytes=0-1", "if_range": tag}),
        (200, {"range": "bytes=0-1", "if_range": '"other"'}),
        (200, {"range": "bytes=0-1", "if_range": modified}),
        (304, {"range": "bytes=0-1", "if_none_match": tag}),
    ):
        got = ask(report, **conditions)
        assert got.status == expected, conditions
        if expected == 304:
            assert got.body == b""
            assert got.headers["etag"] == tag


def test_without_a_version_the_answer_says_when_to_ask_again(ask: Ask, tmp_path: Path) -> None:
    def refuse(target: str) -> None:
        raise OSError("no source")

    report = Datafile(tmp_path / "report", 3600, refuse, backoff=Backoff(60))
    with pytest.raises(OSError, match="no source"):
        report.refresh()
    got = ask(report)
    assert got.status == 503
    assert 30 < int(got.headers["retry-after"]) <= 70  # it is drawn


def test_hosts_agree_on_the_tag_where_an_origin_tells_the_contents(ask: Ask, tmp_path: Path) -> None:
    tags = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        tags.add(ask(Datafile(tmp_path / name / "r", 60, create, origin=tmp_path / "origin")).headers["etag"])
    assert len(tags) == 1


def test_an_object_that_only_reads_tells_its_creators_lifetime(ask: Ask, tmp_path: Path) -> None:
    Datafile(tmp_path / "r", 3600, create).refresh()
    age, beyond = ask(Datafile(tmp_path / "r")).headers["cache-control"].split(", ")
    assert 3500 < int(age.removeprefix("max-age=")) <= 3600
    assert beyond == "stale-while-revalidate=3600"


def test_what_was_invalidated_is_not_kept(ask: Ask, tmp_path: Path) -> None:
    Datafile(tmp_path / "r", 3600, create).refresh()
    reader = Datafile(tmp_path / "r")
    reader.invalidate()
    assert ask(reader).headers["cache-control"].split(", ")[0] == "max-age=0"


def test_a_version_that_never_expires_may_be_kept_for_a_year(ask: Ask, tmp_path: Path) -> None:
    assert ask(Datafile(tmp_path / "r", None, create)).headers["cache-control"] == "max-age=31536000"


def test_a_swap_while_it_is_sent_changes_nothing_of_the_answer(report: Datafile) -> None:
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    started: list[Any] = []
    body = wsgi.DatafileApp(report)(environ, lambda *told: started.extend(told))
    other = Datafile(report.path(), 3600, lambda target: Path(target).write_bytes(b"other"))
    other.refresh(force=True)
    assert b"".join(body) == CONTENTS
    assert dict(started[1])["Content-Length"] == "100"
    body.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [0, 1, _serving.CHUNK, _serving.CHUNK + 1, 2 * _serving.CHUNK])
def test_an_asgi_server_gets_the_last_piece_as_the_last_and_the_file_is_closed_by_then(
    tmp_path: Path, size: int
) -> None:
    contents = os.urandom(size)
    report = Datafile(tmp_path / "r", 3600, lambda target: Path(target).write_bytes(contents))
    report.refresh()
    before = 0
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append((message, descriptors()))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def ask() -> None:
        nonlocal before
        before = descriptors()
        await asgi.DatafileApp(report)({"type": "http", "method": "GET", "headers": []}, receive, send)

    anyio.run(ask)
    pieces = [message for message, _ in sent[1:]]
    assert b"".join(piece["body"] for piece in pieces) == contents
    assert [piece["more_body"] for piece in pieces] == [True] * (max(1, -(-size // _serving.CHUNK)) - 1) + [False]
    assert sent[-1][1] <= before + 1, "the sidecar is kept open, and the file is not"


def test_a_file_that_was_made_shorter_while_it_is_sent_ends_the_answer(report: Datafile) -> None:
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    body = wsgi.DatafileApp(report)(environ, lambda *told: None)
    os.truncate(report.path(), 40)
    assert b"".join(body) == CONTENTS[:40]
    body.close()  # type: ignore[attr-defined]


def test_what_is_told_of_an_open_version_is_what_its_status_says(report: Datafile) -> None:
    report.refresh()
    block: Any = report.open()
    with block as file:
        found = os.fstat(file.fileno())
        status = report.status()
        told = block.status_of(found)
        for name in ("createdtime", "generation", "state", "fresh_until", "expiretime", "content"):
            assert getattr(told, name) == getattr(status, name)
        report.refresh(force=True)
        assert block.status_of(found).generation == status.generation != report.status().generation
        assert block.status_of(os.stat(report.path())) is None


def test_a_slow_client_keeps_no_creator_from_swapping(tmp_path: Path) -> None:
    report = Datafile(tmp_path / "r", 3600, create, readers=True, timeout=5)
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    body = wsgi.DatafileApp(report)(environ, lambda *told: None)
    report.refresh(force=True)
    assert b"".join(body) == CONTENTS
    body.close()  # type: ignore[attr-defined]
