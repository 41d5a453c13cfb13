"""The folders of the package are floors: a module imports only from its own floor and from those below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dogpile_fs

PACKAGE = Path(dogpile_fs.__file__).parent
#: From the ground up. The package itself (its public names, imported lazily) may be used by the command alone.
FLOORS = (
    ("errors", "version", "_layout"),
    ("_os",),
    ("_locks",),
    ("_sidecar",),
    ("_dogpile",),
    ("_datafile",),
    ("events", "metrics", "origin"),
    ("_aio",),
    ("aio",),
    ("_cached_file",),
    ("__init__",),
    ("cli", "integrations"),
    ("__main__",),
)
FLOOR_OF = {folder: number for number, floor in enumerate(FLOORS) for folder in floor}


def module_of(file: Path) -> tuple[str, ...]:
    """The dotted name of *file* below the package, as a tuple; a folder's ``__init__`` is the folder."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


MODULES = {module_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def is_only_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports_of(module: tuple[str, ...], *, when_it_is_imported: bool) -> set[tuple[str, ...]]:
    """The modules of the package that *module* imports.

    :param when_it_is_imported: leave out the imports inside functions, and those for types.
    """
    file = MODULES[module]
    package = module if file.name == "__init__.py" and module != ("__init__",) else module[:-1]
    found: set[tuple[str, ...]] = set()
    pending: list[ast.AST] = [ast.parse(file.read_text())]
    while pending:
        node = pending.pop()
        if when_it_is_imported and (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(node, ast.stmt) and is_only_for_types(node))
        ):
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + tuple(
                (node.module or "").split(".") if node.module else ()
            )
            for alias in node.names:
                whole = (*base, alias.name)
                found.add(whole if whole in MODULES else base or ("__init__",))
        pending.extend(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize("module", MODULES, ids=".".join)
def test_a_module_imports_only_from_its_own_floor_and_from_those_below(module: tuple[str, ...]) -> None:
    floor = FLOOR_OF[module[0]]
    lazy_face = module == ("__init__",)
    above = {
        ".".join(imported)
        for imported in imports_of(module, when_it_is_imported=lazy_face)
        if FLOOR_OF[imported[0]] > floor
    }
    assert not above


def test_no_modules_import_each_other_in_a_circle() -> None:
    imports = {module: imports_of(module, when_it_is_imported=True) - {module} for module in MODULES}
    settled: set[tuple[str, ...]] = set()
    while ready := {module for module, needed in imports.items() if module not in settled and needed <= settled}:
        settled |= ready
    assert settled == set(MODULES), f"a circle among {sorted('.'.join(m) for m in set(MODULES) - settled)}"


def test_every_folder_has_a_floor() -> None:
    assert {module[0] for module in MODULES} == set(FLOOR_OF)


def test_integrations_use_public_names_alone_and_nothing_imports_them() -> None:
    for module in MODULES:
        imported = imports_of(module, when_it_is_imported=False)
        if module[0] == "integrations":
            elsewhere = {each for each in imported if each[0] != "integrations"}
            assert not {each for each in elsewhere if each[0].startswith("_") and each != ("__init__",)}, module
        else:
            assert not {each for each in imported if each[0] == "integrations"}, module
