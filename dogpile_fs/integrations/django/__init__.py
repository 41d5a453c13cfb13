"""Django: a cache on files, a response that sends a datafile, and the datafiles of a project under their names.

As an entry of ``INSTALLED_APPS`` it imports the modules ``datafiles`` of all installed applications, has the
command ``manage.py datafiles``, and checks the directories. The names here can be imported before Django has
settings and applications.
"""

from __future__ import annotations

from ._cache import DatafileCache
from ._registry import register, registered
from ._response import datafile_response

__all__ = ["DatafileCache", "datafile_response", "register", "registered"]
