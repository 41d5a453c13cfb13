"""The judge of the trial of hosts: it reports each promise that is broken in a history made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.campaign.hosts.judge import violations
from tests.campaign.hosts.tale import FOR_EVER, Creation, Harm, Read, Request, State, Tale

ONE, TWO = "h1w1.1", "h2w1.2"
OLD = State("l", 1, "old", ("p1",))
#: While the process ONE creates the second version, and when it has.
BEGUN = replace(OLD, attempt="a2")
NEW = State("l", 2, "new", ("p2", "p1"))


def swap(process: str, at: float, state: State, tag: str, new_tag: str, answer: str = "won") -> Request:
    return Request(process, "swap", at, at + 0.1, answer, state, tag, new_tag if answer == "won" else "")


def look(process: str, at: float, state: State, tag: str = "") -> Request:
    return Request(process, "look", at, at + 0.1, "found", state, "", tag)


def read(process: str, at: float, sha: str, seconds: float = 0.1, **more: object) -> Read:
    return replace(Read(process[:2], process, at, at + seconds, sha), **more)  # type: ignore[arg-type]


#: Both have the first version, ONE creates the second one, TWO fetches it.
GOOD = Tale(
    reads=(
        read(ONE, 1.5, "old"),
        read(TWO, 1.7, "old"),
        read(ONE, 4.0, "new", 1.2, worked=True),
        read(TWO, 4.5, "old"),
        read(TWO, 5.5, "new"),
    ),
    creations=(Creation(ONE, 4.2, 4.8, "new"),),
    requests=(
        swap(ONE, 1.0, OLD, "", "t1"),
        look(TWO, 1.5, OLD, "t1"),
        swap(ONE, 4.0, BEGUN, "t1", "t2"),
        swap(ONE, 5.0, NEW, "t2", "t3"),
        look(TWO, 5.3, NEW, "t3"),
    ),
)


def found(tale: Tale) -> str:
    return "\n".join(violations(tale))


def with_requests(*requests: Request) -> Tale:
    return replace(GOOD, requests=(*GOOD.requests, *requests))


def with_reads(*reads: Read) -> Tale:
    return replace(GOOD, reads=(*GOOD.reads, *reads))


def test_a_sound_history_breaks_nothing() -> None:
    assert found(GOOD) == ""


def test_a_generation_that_is_two_versions_is_reported() -> None:
    assert "generation 2 of the lineage l is 2 versions" in found(
        with_requests(look(TWO, 6.0, replace(NEW, sha="other")))
    )
    assert found(with_requests(look(TWO, 6.0, State("m", 2, "other", ("p9",))))) == ""


def test_a_version_that_is_published_again_is_reported() -> None:
    seeded = State("m", 1, "new", ("p9",))
    assert "the version new was published 2 times" in found(with_requests(swap(TWO, 6.0, seeded, "", "t9")))


def test_a_head_that_goes_back_is_reported_unless_the_origin_was_set_back() -> None:
    tale = with_requests(look(TWO, 6.0, OLD, "t1"))
    assert "the origin went from generation 2 back to 1" in found(tale)
    assert found(replace(tale, harms=(Harm("loss", 5.7, 5.8),))) == ""
    at_the_same_time = Request(TWO, "look", 4.9, 6.0, "found", OLD, "", "t1")
    assert found(with_requests(at_the_same_time)) == ""


def test_what_no_head_has_named_before_it_was_read_is_reported() -> None:
    assert "has read torn" in found(with_reads(read(TWO, 6.0, "torn")))
    early = read(TWO, 4.9, "new")
    assert "has read new at 5.000, and no head had named it" in found(with_reads(early))
    lost = replace(GOOD.requests[3], answer="down", new_tag="")  # TWO has found that it was written all the same
    assert found(replace(GOOD, requests=(*GOOD.requests[:3], lost, GOOD.requests[4]))) == ""


def test_a_creation_that_was_called_fenced_and_was_published_is_reported() -> None:
    fenced = replace(GOOD, creations=(replace(GOOD.creations[0], is_fenced=True),))
    assert "calls its creation new fenced, and it was published" in found(fenced)
    assert found(replace(fenced, harms=(Harm("loss", 5.2, 5.3),))) == ""


@pytest.mark.parametrize("state", [State(), OLD, replace(OLD, attempt="a9")], ids=["empty", "ended", "taken over"])
def test_a_creation_that_was_no_longer_on_record_and_was_published_is_reported(state: State) -> None:
    tale = with_requests(look(TWO, 4.5, state, "t7"))
    assert f"the creation new of {ONE} was published, although {TWO} had found" in found(tale)
    late = with_requests(Request(TWO, "look", 4.5, 5.05, "found", state, "", "t7"))
    assert found(late) == ""


def test_a_fenced_creation_that_nobody_sees_is_none() -> None:
    lost = swap(ONE, 7.0, State("l", 3, "late", ("p3",)), "t4", "", answer="lost")
    begun = swap(ONE, 6.0, replace(NEW, attempt="a3"), "t3", "t4")
    tale = with_requests(begun, look(TWO, 6.5, NEW, "t5"), lost)
    tale = replace(tale, creations=(*GOOD.creations, Creation(ONE, 6.2, 6.9, "late", is_fenced=True)))
    assert found(tale) == ""
    assert "although" in found(replace(tale, reads=(*tale.reads, read(ONE, 8.0, "late"))))


def taking_over(at: float, by: str = TWO) -> Tale:
    begun = swap(ONE, 6.0, replace(NEW, attempt="a3"), "t3", "t4")
    return with_requests(begun, swap(by, at, NEW, "t4", "t5"))


def test_an_attempt_that_is_taken_over_before_its_ttl_is_reported() -> None:
    assert f"{TWO} took the creation of {ONE} over, 0.600 s after" in found(taking_over(6.5))
    assert found(taking_over(7.0)) == ""
    assert found(taking_over(6.5, by=ONE)) == ""  # it has ended its own


def test_a_process_that_reads_an_earlier_version_after_a_later_one_is_reported() -> None:
    assert f"{TWO} has read generation 1 after 2" in found(with_reads(read(TWO, 6.0, "old")))
    assert found(with_reads(read("h2w2.3", 6.0, "old"))) == ""


def test_a_reader_with_a_replica_that_waits_is_reported() -> None:
    slow = read(TWO, 6.0, "new", 3.5)
    assert f"{TWO} has waited for 3.5 s" in found(with_reads(slow))
    assert found(with_reads(replace(slow, worked=True))) == ""
    assert found(replace(with_reads(slow), harms=(Harm("stopped", 6.5, 9.0, TWO),))) == ""
    assert "has waited" in found(replace(with_reads(slow), harms=(Harm("stopped", 6.5, 9.0, ONE),)))
    first = read("h3w1.4", 6.0, "new", 9.0)
    assert found(replace(with_requests(look("h3w1.4", 8.0, NEW)), reads=(*GOOD.reads, first))) == ""


def test_a_reader_that_asks_may_wait_for_the_answer() -> None:
    slow, asks = read(TWO, 6.0, "new", 8.0), Request(TWO, "look", 6.1, 12.0, "down")
    assert found(replace(with_requests(asks), reads=(*GOOD.reads, slow))) == ""
    slower = replace(slow, ended=16.0)
    assert "has waited for 10.0 s" in found(replace(with_requests(asks), reads=(*GOOD.reads, slower)))


def test_a_read_that_never_ends_is_reported_unless_its_process_was_killed() -> None:
    endless = Read("h2", TWO, 6.0, FOR_EVER)
    assert "has waited for inf s" in found(with_reads(endless))
    assert found(replace(with_reads(endless), harms=(Harm("killed", 6.0, 6.1, TWO),))) == ""


def test_a_read_that_fails_although_its_host_has_a_replica_is_reported() -> None:
    failed = read("h2w2.3", 6.0, "", error="OriginError", message="no answer")
    assert "h2w2.3 got OriginError, at 6.100: no answer" in found(with_reads(failed))
    first = read("h3w1.4", 6.0, "", error="LockTimeout"), read("h3w1.4", 7.0, "new")
    assert found(replace(with_requests(look("h3w1.4", 6.5, NEW)), reads=(*GOOD.reads, *first))) == ""


def test_hosts_that_do_not_come_to_one_version_are_reported() -> None:
    assert found(replace(GOOD, has_settled=False)) == "the hosts did not come to one version after the fault"


def test_a_trial_in_which_a_host_has_read_nothing_is_reported() -> None:
    assert "no process of h2 has read anything" in found(replace(GOOD, reads=GOOD.reads[:1]))
    assert "nothing was read" in found(Tale())


def test_a_fit_origin_that_is_refused_is_reported() -> None:
    refused = read("h3w1.4", 6.0, "", error="OriginUnfit"), read("h3w1.4", 7.0, "new")
    tale = replace(with_requests(look("h3w1.4", 6.5, NEW)), reads=(*GOOD.reads, *refused))
    assert "h3w1.4 calls a server unfit that is fit" in found(tale)


def test_an_origin_that_is_not_fit_must_be_refused_by_all_before_anything_is_created() -> None:
    refused = Tale(reads=(read(ONE, 1.0, "", error="OriginUnfit"),), is_unfit=True)
    assert found(refused) == ""
    assert "was told that the origin is not fit" in found(Tale(is_unfit=True))
    assert "has created for an origin" in found(replace(refused, creations=GOOD.creations))
    assert "has read old from an origin" in found(replace(refused, reads=(*refused.reads, *GOOD.reads)))
