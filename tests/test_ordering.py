"""The campaign on the order of bounds: it measures, goes on where it stopped, and finds what is out of order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks import ordering
from benchmarks.robust import SampleStore


def row(seed: int, bounds: dict[str, float]) -> ordering.Ordered:
    found = [bounds.get(name, -0.5) for name in ordering.METHODS]
    return ordering.Ordered(seed, 2, 4, 0.0, found, [0.0] * len(found))


def test_a_network_is_measured_and_in_order() -> None:
    found = ordering.measure(3)
    assert found is not None
    assert ordering.violations([found]) == []
    assert found.bound("interval") < found.bound("lp") <= found.exact


def test_what_is_out_of_order_is_named() -> None:
    good = row(0, {"interval": -1.0})
    unsound = replace(good, bounds=[*good.bounds[:-1], 0.1])
    loose = row(7, {"interval": -1.0, "lp": -0.6})
    assert ordering.violations([good]) == []
    assert "sdp is above exact: seeds [0]" in ordering.violations([good, unsound])
    assert "linear is above lp: seeds [7]" in ordering.violations([good, loose])
    assert "1/2" in ordering.report([good, loose])


def test_a_campaign_goes_on_where_it_stopped(tmp_path: Path) -> None:
    asked: list[int] = []

    def of(seed: int) -> ordering.Ordered | None:
        asked.append(seed)
        return None if seed % 2 else row(seed, {"interval": -1.0})

    for count in (2, 4):
        store = SampleStore(tmp_path, {}, ordering.Ordered)
        list(ordering.campaign(count, store, of))
    assert asked == [0, 1, 2, 3, 4, 5, 6]
    assert [r.seed for r in SampleStore(tmp_path, {}, ordering.Ordered).results] == [0, 2, 4, 6]
