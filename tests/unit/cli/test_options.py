from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dogpile_fs.cli.arguments import parsed
from dogpile_fs.cli.exits import USAGE, Exit
from dogpile_fs.cli.options import RUN_OPTIONS, Settings, scan, split_at_command

PLAIN = ["--expire", "1h", "--output", "file", "--", "true"]


def test_the_plain_options_of_a_crontab_are_scanned() -> None:
    settings = scan(
        [
            "--expire",
            "1h",
            "--output=file",
            "--stdout",
            "--then",
            "reload web",
            "-q",
            "--",
            "sh",
            "-c",
            "x",
            "--",
            "y",
        ]
    )
    assert settings is not None
    assert (settings.expire, settings.output, settings.stdout) == (3600, "file", True)
    assert (settings.then, settings.quiet, settings.force) == ("reload web", True, False)
    assert settings.command == ["sh", "-c", "x", "--", "y"]


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--stale-if-error", *PLAIN], True),
        (["--stale-if-error", "1h", *PLAIN], 3600),
        (["--stale-if-error=1h", *PLAIN], 3600),
        ([*PLAIN[:-2], "--stale-if-error", "--", "true"], True),
        (PLAIN, False),
    ],
)
def test_the_value_of_an_option_may_be_left_out_where_it_has_a_meaning(words: list[str], value: object) -> None:
    settings = scan(words)
    assert settings is not None
    assert settings.stale_if_error == value


def test_several_inputs_may_be_given_at_once_or_one_by_one() -> None:
    settings = parsed(["run", "--depends-on", "a", "b", "--depends-on=c", *PLAIN])
    assert isinstance(settings, Settings)
    assert settings.depends_on == ["a", "b", "c"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--refresh-early", "0.5", *PLAIN],
        ["--depends-on", "input", *PLAIN],
        ["--stale-if-error", "2h", "--max-stale", "1h", *PLAIN],
        ["--backoff", "2h..1h", *PLAIN],
        ["--help"],
        ["--expire", "soon", *PLAIN],
        ["--output", "file", "--", "true"],
        ["--exp", "1h", *PLAIN],
        ["--stdout=yes", *PLAIN],
        ["-v", *PLAIN],
        ["--then=--", *PLAIN],
        ["--then", "--force", *PLAIN],
        ["stray", *PLAIN],
        ["--wait", "1", "--no-wait", *PLAIN],
        PLAIN[:-1],
        PLAIN[:-2],
    ],
)
def test_words_that_are_not_plain_are_left_to_argparse(words: list[str]) -> None:
    assert scan(words) is None


def test_every_option_is_an_attribute_of_the_settings_with_a_default() -> None:
    for option in RUN_OPTIONS:
        assert hasattr(Settings, option.attribute), option.flag


def test_command_begins_after_the_first_double_dash() -> None:
    assert split_at_command(["--force", "--", "a", "--", "b"]) == (["--force"], ["a", "--", "b"])
    assert split_at_command(["--force"]) == (["--force"], [])


VALUES = st.sampled_from(["1h", "0", "3", "0.5", "1s..2h", "never", "", "x", "-1", "a=b", "--", "-q", "--force"])
NAMES = [name for option in RUN_OPTIONS for name in (option.flag, option.short) if name]


@given(
    st.lists(
        st.one_of(
            st.sampled_from(NAMES).map(lambda name: [name]),
            st.tuples(st.sampled_from(NAMES), VALUES).map(list),
            st.tuples(st.sampled_from(NAMES), VALUES).map(lambda pair: ["=".join(pair)]),
            VALUES.map(lambda value: [value]),
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_words_that_the_scan_accepts_mean_the_same_to_argparse(groups: list[list[str]], plain: bool) -> None:
    words = [word for group in groups for word in group] + (PLAIN if plain else [])
    quick = scan(words)
    if quick is None:
        return
    thorough = parsed(["run", *words])
    assert isinstance(thorough, Settings)
    assert vars(quick) == vars(thorough)


@given(st.lists(st.sampled_from([*NAMES, "1", "file", "--", "true"]), max_size=8))
def test_argparse_accepts_any_words_or_reports_a_wrong_usage(words: list[str]) -> None:
    try:
        settings = parsed(["run", *words])
    except Exit as error:
        if error.status != USAGE or "\n" in str(error):
            raise
    else:
        assert isinstance(settings, Settings)
