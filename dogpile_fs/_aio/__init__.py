"""The driver of the election for tasks, and what it needs of event loops."""

try:
    import anyio as _anyio  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "tasks need the package anyio. Hint: python -m pip install 'dogpile_fs[aio]'", name=error.name
    ) from error
