"""The same classes for asyncio (whatever its event loop) and trio: ``pip install dogpile_fs[aio]``.

They take the parameters and policies of the synchronous classes, and share locks and records with all users of the
same path, in whichever process. Passes run in the event loop without a pause; waits pause their task alone.

>>> import anyio, os, tempfile
>>> from dogpile_fs import aio
>>> async def creator(target):
...     async with await anyio.open_file(target, "w") as file:
...         await file.write("the report")
>>> async def main():
...     report = aio.Datafile(os.path.join(tempfile.mkdtemp(), "report.txt"), 3600, creator)
...     async with report.open("r") as file:
...         print(file.read())
>>> anyio.run(main)
the report
"""

from __future__ import annotations

from ._aio.datafiles import Datafiles
from ._aio.dogpile import Dogpile, SyncReaderDogpile
from ._aio.resource import DataDirectory, Datafile

__all__ = ["DataDirectory", "Datafile", "Datafiles", "Dogpile", "SyncReaderDogpile"]
