"""The application: ``"dogpile_fs.integrations.django"`` in ``INSTALLED_APPS``."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.utils.module_loading import autodiscover_modules

from ._checks import check_caches, check_datafiles, check_exposed_caches

__all__ = ["DogpileFsConfig"]


class DogpileFsConfig(AppConfig):  # type: ignore[misc,unused-ignore]
    """Imports the modules ``datafiles`` of all installed applications, and registers the checks."""

    name = "dogpile_fs.integrations.django"
    label = "dogpile_fs"
    verbose_name: str = "Datafiles"

    def ready(self) -> None:
        """Do so. What a module raises goes to the caller, as with Django's own such modules."""
        checks.register(check_datafiles, "datafiles")
        checks.register(check_caches, checks.Tags.caches)
        checks.register(check_exposed_caches, checks.Tags.caches, deploy=True)
        autodiscover_modules("datafiles")
