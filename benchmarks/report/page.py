"""The text of docs/benchmarks.rst: the tables of a run.

The page may say more than the tables: the text before and after the two marks stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring.measures import Figure, Ratio, Scenario
from benchmarks.report.words import shown, with_spread

__all__ = ["page", "section", "table", "written_into"]

BEGIN = ".. What follows is written by benchmarks/run.py, up to the mark at its end."
END = ".. End of what benchmarks/run.py has written."
_EMPTY_PAGE = f"""==========
Benchmarks
==========

How to read and repeat them, and what they do not show: `benchmarks/README.rst <../benchmarks/README.rst>`_.

{BEGIN}

{END}
"""
#: Percent of the processors that others took, above which figures are not worth much.
BUSY = 10.0


def written_into(page_now: str | None, text: str) -> str:
    """Return the page with *text* between its marks; a new page if there is none.

    :raises ValueError: if the page has lost its marks.
    """
    if page_now is None:
        page_now = _EMPTY_PAGE
    before, begin, rest = page_now.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has lost the marks between which the tables are written")
    return f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}"


def page(results: dict[str, Any], pictures: dict[int, Sequence[str]]) -> str:
    """Return the text, from the contents of the JSON file; *pictures*: the files of each row, as the page names
    them."""
    scenarios = [Scenario.from_json(data) for data in results["scenarios"]]
    parts = [_on_what(results), _bars(scenarios)]
    parts += [section(scenario, pictures.get(scenario.number, ())) for scenario in scenarios]
    return "\n\n".join(parts)


def _on_what(results: dict[str, Any]) -> str:
    lines = [f":{name}: {_said(value)}" for name, value in results["machine"].items()]
    text = ["On what", "=======", "", *lines, ""]
    runs = results["runs"].values()
    differ = {name: run["elsewhere"] for name, run in results["runs"].items() if run.get("elsewhere")}
    for machine in _in_order(map(_described, differ.values())):
        names = ", ".join(name for name, one in differ.items() if _described(one) == machine)
        text += [f"Measured elsewhere, on another {machine}: {names}.", ""]
    dates = sorted({run["when"][:10] for run in runs})
    text.append(
        f"Measured {' and '.join(dates)}. While a row was measured, other programs took at most "
        f"{max(run['others'] for run in runs):.0f} % of the processors, and the host of the virtual machine took "
        f"away at most {max(run['stolen'] for run in runs):.0f} %."
    )
    taken = {name: run["others"] + run["stolen"] for name, run in results["runs"].items()}
    busy = [f"{name} ({share:.0f} %)" for name, share in taken.items() if share > BUSY]
    if busy:
        text += [
            "",
            f"**The machine was busy with something else during: {', '.join(busy)}.** Measure these again.",
        ]
    if any(run["quick"] for run in runs):
        text += ["", "**A quick run: it shows that the scripts work. Its figures mean nothing.**"]
    return "\n".join(text)


def _described(differ: dict[str, Any]) -> str:
    return "; ".join(f"{what} ({_said(value)})" for what, value in differ.items())


def _said(value: str | dict[str, str]) -> str:
    """Return one property of a machine; of its packages, the versions."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return str(value)


def _bars(scenarios: Iterable[Scenario]) -> str:
    rows = [
        (str(scenario.number), bar.text, with_spread(bar.measured, bar.unit), bar.verdict)
        for scenario in scenarios
        for bar in scenario.bars
    ]
    text = "The median decides; in brackets are the quartiles. *Too close to tell*: the bar lies between them."
    return "\n".join(["The bars", "========", "", text, "", table(("row", "bar", "measured", ""), rows)])


def section(scenario: Scenario, pictures: Iterable[str]) -> str:
    """Return one row: its setting, its figures, its pictures, its notes."""
    title = f"{scenario.number}. {scenario.title}"
    parts = [title + "\n" + "=" * len(title), scenario.setting, _figures(scenario)]
    parts += [f".. image:: {picture}" for picture in pictures]
    parts += [f"- {note}" for note in scenario.notes]
    parts += [f"- Counted: {check.text}: {check.seen}." for check in scenario.checks if not check.passed]
    return "\n\n".join(parts)


def _figures(scenario: Scenario) -> str:
    """Return a line for each contender (and place on the x axis), with a column for each figure."""
    x = next((plot.x for plot in scenario.plots if plot.kind == "lines"), "")
    has_x = any(figure.at is not None for figure in scenario.figures)
    columns: list[tuple[str, bool]] = []
    for what in _in_order(figure.what for figure in scenario.figures):
        columns.append((what, False))
        if any(ratio.what == what for ratio in scenario.ratios):
            columns.append((what, True))
    head = ["", *([x] if has_x else []), *(_headed(scenario, *column) for column in columns)]
    rows = []
    keys = _in_order((figure.at, figure.contender) for figure in scenario.figures)
    ats = _in_order(at for at, _ in keys)
    for at, contender in sorted(keys, key=lambda key: ats.index(key[0])):
        row = [contender]
        if has_x:
            row.append("" if at is None else shown(at, "B" if x == "bytes" else ""))
        row += [_cell(scenario, contender, at, *column) for column in columns]
        rows.append(row)
    return table(head, rows)


def _headed(scenario: Scenario, what: str, is_ratio: bool) -> str:
    if not is_ratio:
        return what
    references = _in_order(ratio.reference for ratio in scenario.ratios if ratio.what == what)
    return f"times {references[0]}"


def _cell(scenario: Scenario, contender: str, at: float | None, what: str, is_ratio: bool) -> str:
    found: Sequence[Figure | Ratio] = scenario.ratios if is_ratio else scenario.figures
    for one in found:
        if (one.contender, one.what, one.at) != (contender, what, at):
            continue
        if isinstance(one, Ratio):
            return with_spread(one.spread)
        return one.said if one.spread is None else with_spread(one.spread, one.unit)
    return ""


def _in_order(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A simple table of reStructuredText.

    >>> print(table(("a", "b"), [("one", "1"), ("two", "")]))
    ====  ====
    a     b
    ====  ====
    one   1
    two
    ====  ====
    """
    # An empty first cell would continue the line above; an escaped space does not.
    cells = [[cell or ("\\ " if number == 0 else "") for number, cell in enumerate(row)] for row in (head, *rows)]
    widths = [max(4, *(len(row[number]) for row in cells)) for number in range(len(head))]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        re.sub(r" +$", "", "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
        for row in cells
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def write(directory: Path, results: dict[str, Any], pictures: dict[int, Sequence[str]]) -> Path:
    """Write the page in *directory*, or into the one that is there."""
    file = directory / "benchmarks.rst"
    now = file.read_text() if file.exists() else None
    file.write_text(written_into(now, page(results, pictures)))
    return file
