"""What pyproject.toml cannot say: an sdist of the same files has the same bytes."""

import os
import tarfile
from gzip import GzipFile

from setuptools import setup
from setuptools.command.sdist import sdist

#: The time of all files, also of the wheel's, whose format knows no earlier one.
EPOCH = int(os.environ.setdefault("SOURCE_DATE_EPOCH", "315532800"))


class ReproducibleSdist(sdist):
    """An archive whose bytes depend on the files' names and contents alone."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        def plain(member):
            member.mtime, member.uid, member.gid, member.uname, member.gname = EPOCH, 0, 0, "root", "root"
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            return member

        name = f"{base_name}.tar.gz"
        with (
            open(name, "wb") as file,
            GzipFile("", "wb", fileobj=file, mtime=EPOCH) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            archive.add(base_dir, filter=plain)  # in the order of the names
        return name


setup(cmdclass={"sdist": ReproducibleSdist})
