"""Each promise is tested with the synchronous classes, and with those of ``dogpile_fs.aio`` on two event loops."""

from __future__ import annotations

import pytest

from tests.support.facade import BACKENDS, NAMES, class_of

from . import creators


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Test with each kind of classes the modules that use any."""
    if any(hasattr(metafunc.module, name) for name in NAMES):
        metafunc.parametrize("classes", ["sync", *BACKENDS], indirect=True)


@pytest.fixture(autouse=True)
def classes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the test's module use the classes of one kind; its processes are forked."""
    kind = getattr(request, "param", "sync")
    if kind == "sync":
        return
    for module in (request.module, creators):
        for name in NAMES:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, class_of(name, kind))
