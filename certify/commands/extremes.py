"""`certify extremes`: between which numbers every output lies, over the inputs that a property speaks of."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from certify.budget import Budget
from certify.commands import options
from certify.commands.progress import Bar
from certify.commands.tables import rounded, show_table
from certify.commands.terminal import ABORTED, Stop, Watchdog, as_json, emit, finite, patience, say
from certify.strategy import Strategy

if TYPE_CHECKING:
    from certify.extreme import Extreme

DIGITS = 8
"""Of the numbers in the table."""


@options.with_strategy
def extremes(
    net: options.Network,
    prop: Annotated[
        Path, typer.Argument(metavar="PROPERTY", help="A .vnnlib file, or .vnnlib.gz; only its inputs count.")
    ],
    timeout: Annotated[float, typer.Option(help="Seconds per value, of which every output has two.")] = 10.0,
    outputs: Annotated[str | None, typer.Option(help="Only outputs A:B, counted from 0.")] = None,
    as_object: options.Json = False,
    *,
    strategy: Strategy,
) -> None:
    """Find the least and the greatest value of outputs.

    Each is enclosed: no value is beyond the number that is proved, and the other one is what the original network
    answers at an input. Exit status: 0 done, 2 bad input, 130 stopped before the end.
    """
    import numpy as np

    from certify.extreme import Extreme, maximum, minimum
    from certify.frontends.load import load_network
    from certify.spec.vnnlib import read_vnnlib

    Budget(timeout)  # refuses what is not positive
    options.existing(prop, "property file")
    network = load_network(net)
    size = network.graph.output_size
    regions = [case.region for case in read_vnnlib(prop, network.graph.input_size, size)]
    distinct = {(r.lower.tobytes(), r.upper.tobytes()): r for r in regions}.values()
    work = [(b, region, k) for b, region in enumerate(distinct) for k in options.parse_span(outputs, size, "--outputs")]
    answers, budget = _Answers(len(work), as_object), Budget()
    with Stop(budget), Bar(len(work), "outputs") as bar:
        for b, region, k in work:
            both = [Extreme(-end, end, None, None, None, False) for end in (np.inf, -np.inf)]
            for side, extreme in enumerate((minimum, maximum)):
                part = budget.part(timeout)

                def heard(proved: float, attained: float, both: list[Extreme] = both, side: int = side) -> None:
                    both[side] = Extreme(proved, attained, None, None, None, False)

                def overrun(known: tuple[int, int, list[Extreme]] = (b, k, both)) -> int:
                    say("stopped: a value takes far longer than --timeout")
                    answers.add(*known[:2], *known[2])
                    return answers.finish()

                with Watchdog(part, overrun, patience(timeout)) as watchdog:
                    row = np.eye(1, size, k)[0]
                    both[side] = extreme(network, region, row, strategy=strategy, budget=part, progress=heard)
                    watchdog.settle()
            answers.add(b, k, *both)
            if budget.cancelled and not all(one.exact for one in both):
                break
            answers.done += 1
            bar.advance(answers.done, f"{answers.exact} exact")
    raise typer.Exit(answers.finish())


class _Answers:
    """What is known of the outputs so far: `done` of `total`, as far as their time allowed."""

    def __init__(self, total: int, as_object: bool) -> None:
        self.total, self.as_object, self.done = total, as_object, 0
        self.found: list[tuple[int, int, Extreme, Extreme]] = []

    @property
    def exact(self) -> int:
        return sum(low.exact and high.exact for _, _, low, high in self.found)

    def add(self, box: int, output: int, low: Extreme, high: Extreme) -> None:
        self.found.append((box, output, low, high))
        if self.as_object:
            emit(as_json(_object(box, output, low, high)))

    def finish(self) -> int:
        """Show the table; returns the exit status."""
        if not self.as_object:
            shown = ("output", "box", "least: proved", "attained", "greatest: attained", "proved", "exact")
            show_table(shown, [_row(*one) for one in self.found])
        if self.done == self.total:
            return 0
        say(f"stopped: {self.done} of {self.total} outputs are done, and shown is what was known by then")
        return ABORTED


def _object(box: int, output: int, low: Extreme, high: Extreme) -> dict[str, object]:
    both = {"least": low, "greatest": high}
    values = {
        name: {"proved": finite(one.proved), "attained": finite(one.attained), "exact": one.exact}
        for name, one in both.items()
    }
    return {"output": output, "box": box, **values}


def _row(box: int, output: int, low: Extreme, high: Extreme) -> tuple[object, ...]:
    """Rounded so that what is said of the numbers remains true."""
    sides = ((low.proved, ROUND_FLOOR), (low.attained, ROUND_CEILING))
    sides += ((high.attained, ROUND_FLOOR), (high.proved, ROUND_CEILING))
    numbers = (rounded(x, DIGITS, way) for x, way in sides)
    return (f"Y_{output}", box, *numbers, "yes" if low.exact and high.exact else "no")
