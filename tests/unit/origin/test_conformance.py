"""Engines that do not keep their promises are found out, and those that do are not."""

from __future__ import annotations

import http.server
import logging
import threading
from collections.abc import Iterator
from email.utils import formatdate
from hashlib import md5
from pathlib import Path

import pytest

from dogpile_fs import Datafile, Origin, OriginUnfit
from dogpile_fs._dogpile.conformance import refuse_unfit
from dogpile_fs._dogpile.engine import Lost
from dogpile_fs.origin import Engine, find_fault
from tests.support import servers

HOUR = 3600


class Careless(http.server.BaseHTTPRequestHandler):
    """A server of objects that ignores the conditions that it is told to ignore."""

    ignored: frozenset[str] = frozenset()
    #: Whether it compares If-Match with its ETag without quotes.
    is_bare = False
    objects: dict[str, bytes]
    lock: threading.Lock
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.lock:
            there = self.objects.get(self.path)
            tag = None if there is None else _tag(there).strip('"' if self.is_bare else "")
            wanted = self.headers.get("If-Match") if "If-Match" not in self.ignored else None
            is_new = self.headers.get("If-None-Match") == "*" and "If-None-Match" not in self.ignored
            if (is_new and there is not None) or (wanted is not None and wanted != tag):
                self._answer(412, b"")
                return
            self.objects[self.path] = body
        self._answer(200, b"", _tag(body))

    def do_GET(self) -> None:
        there = self.objects.get(self.path)
        if there is None:
            self._answer(404, b"")
        else:
            self._answer(200, there, _tag(there))

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        self.objects.pop(self.path, None)
        self._answer(204, b"")

    def _answer(self, status: int, body: bytes, tag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", formatdate(usegmt=True))
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _tag(body: bytes) -> str:
    return f'"{md5(body).hexdigest()}"'


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Careless]]:
    pytest.importorskip("obstore")
    handler = type("Handler", (Careless,), {"objects": {}, "lock": threading.Lock()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    for variable, value in servers.ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("ignored", [{"If-Match"}, {"If-None-Match"}, {"If-Match", "If-None-Match"}])
def test_a_server_that_ignores_a_condition_is_refused_before_the_creator_runs(
    careless: type[Careless], tmp_path: Path, ignored: set[str]
) -> None:
    careless.ignored = frozenset(ignored)
    created: list[str] = []
    report = Datafile(tmp_path / "report", HOUR, created.append, origin="s3://bucket/report", timeout=60)
    with pytest.raises(OriginUnfit, match="is not fit") as caught, report.open():
        pass
    assert any(condition in str(caught.value) for condition in ignored)
    assert created == []
    assert not (tmp_path / "report").exists()
    assert report.status().failures == 0


def test_the_same_server_is_fit_if_it_keeps_its_conditions(careless: type[Careless], tmp_path: Path) -> None:
    report = Datafile(
        tmp_path / "report", HOUR, lambda target: Path(target).touch(), origin="s3://bucket/report", timeout=60
    )
    assert report.refresh()


def test_a_server_whose_if_match_takes_etags_without_quotes_alone_is_fit(
    careless: type[Careless], tmp_path: Path
) -> None:
    """Ceph's gateway is one, and gives its ETags with quotes."""
    careless.is_bare = True
    here, there = (
        Datafile(
            tmp_path / name / "report",
            HOUR,
            lambda target: Path(target).write_text("made"),
            origin=Origin("s3://bucket/report", check=0.1),
            timeout=60,
            parents=True,
        )
        for name in ("here", "there")
    )
    assert here.refresh()
    assert there.refresh() == "fresh"
    assert there.refresh(force=True)
    assert here.refresh(force=True)
    assert here.status().generation == 3
    origin = Origin("s3://bucket/report")
    before = origin._engine().read()
    assert isinstance(before, tuple)
    assert origin._engine().swap(b"once", before[1])
    with pytest.raises(Lost):
        origin._engine().swap(b"twice", before[1])


def test_a_server_that_ignores_if_match_is_refused_though_it_takes_etags_without_quotes(
    careless: type[Careless],
) -> None:
    careless.is_bare, careless.ignored = True, frozenset({"If-Match"})
    with pytest.raises(OriginUnfit, match="If-Match"):
        refuse_unfit(Origin("s3://bucket/report"))


def test_a_reader_with_a_version_goes_on_where_the_origin_is_not_fit(
    careless: type[Careless], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    careless.ignored = frozenset({"If-Match"})
    (tmp_path / "report").write_text("shipped")
    report = Datafile(tmp_path / "report", 0, lambda target: None, origin="s3://bucket/report", timeout=60)
    assert Path(report.path()).read_text() == "shipped"
    assert "is not fit" in caplog.text
    with pytest.raises(OriginUnfit):
        report.refresh()


def test_the_engines_of_this_package_keep_their_promises(url: str) -> None:
    origin = Origin(url)
    origin._engine().now()
    for _ in range(2):
        assert find_fault(Origin(f"{url}/probe")._engine) == ""
        assert Origin(f"{url}/probe")._engine().read() is None


def test_of_hosts_that_try_an_origin_at_the_same_time_none_is_misled(url: str) -> None:
    start, failures = threading.Barrier(4), list[BaseException]()

    def probe() -> None:
        start.wait(60)
        try:
            refuse_unfit(Origin(url))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=probe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


class Racing:
    """An engine on which, once, two clients succeed at the same moment."""

    races = 1

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> object:
        return getattr(self.engine, name)

    def swap(self, value: bytes, tag: str | None) -> str:
        try:
            return self.engine.swap(value, tag)
        except Exception:
            if threading.current_thread() is not threading.main_thread() and Racing.races > 0:
                Racing.races -= 1
                return "won"
            raise


@pytest.mark.parametrize(("races", "is_fit"), [(1, True), (9, False)])
def test_a_race_that_happened_once_is_told_and_more_are_a_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, races: int, is_fit: bool
) -> None:
    Racing.races = races
    caplog.set_level(logging.WARNING)
    origin = Origin(tmp_path / "origin")
    fault = find_fault(lambda: Racing(origin._engine()))  # type: ignore[arg-type, return-value]
    assert (fault == "") == is_fit
    assert "not at the same moment" in caplog.text
