"""The two examples of the original ``dogpile``, to the letter, but for the name of the package."""

from __future__ import annotations

import time

ONE_RESOURCE = """
    from dogpile import Dogpile

    # store a reference to a "resource", some 
    # object that is expensive to create.
    the_resource = [None]

    def some_creation_function():
        # create the resource here
        the_resource[0] = create_some_resource()

    def use_the_resource():
        # some function that uses
        # the resource.  Won't reach
        # here until some_creation_function()
        # has completed at least once.
        the_resource[0].do_something()

    # create Dogpile with 3600 second
    # expiry time
    dogpile = Dogpile(3600)

    with dogpile.acquire(some_creation_function):
        use_the_resource()
"""  # noqa: W291

A_DATAFILE = """
    from dogpile import SyncReaderDogpile

    dogpile = SyncReaderDogpile(3600)

    def some_creation_function():
        create_expensive_datafile()
        with dogpile.acquire_write_lock():
            replace_old_datafile_with_new()
"""


def run(example: str, **undefined: object) -> dict[str, object]:
    lines = [line.removeprefix("    ") for line in example.splitlines()]
    names = dict(undefined)
    exec("\n".join(lines).replace("from dogpile import", "from dogpile_fs import"), names)
    return names


def test_the_example_of_one_resource() -> None:
    did: list[str] = []

    class Resource:
        def do_something(self) -> None:
            did.append("used")

    def create_some_resource() -> Resource:
        did.append("created")
        return Resource()

    names = run(ONE_RESOURCE, create_some_resource=create_some_resource)
    assert did == ["created", "used"]
    again = "    with dogpile.acquire(some_creation_function):\n        use_the_resource()\n"
    exec("\n".join(line.removeprefix("    ") for line in again.splitlines()), names)
    assert did == ["created", "used", "used"]


def test_the_example_of_a_datafile() -> None:
    did: list[str] = []
    names = run(
        A_DATAFILE,
        create_expensive_datafile=lambda: did.append("created"),
        replace_old_datafile_with_new=lambda: did.append("replaced"),
    )
    before = time.time()
    exec("with dogpile.acquire(some_creation_function):\n    created = dogpile.createdtime", names)
    assert did == ["created", "replaced"]
    created = names["created"]
    assert isinstance(created, float)
    assert before <= created <= time.time()
