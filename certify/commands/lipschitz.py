"""`certify lipschitz`: how fast a network's outputs may change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from certify.budget import Budget
from certify.commands import options
from certify.commands.progress import Bar
from certify.commands.robust import NORMS
from certify.commands.tables import show_table
from certify.commands.terminal import ABORTED, Stop, as_json, emit, say
from certify.errors import BadOption

if TYPE_CHECKING:
    from certify.graph.ir import Graph
    from certify.lipschitz.network import Part


def lipschitz(
    net: options.Network,
    norm: Annotated[str, typer.Option(help="Norm of inputs and outputs: 2, inf or 1.")] = "2",
    sdp: Annotated[bool, typer.Option("--sdp", help="Also LipSDP, for small networks and norm 2.")] = False,
    data: Annotated[
        str | None, typer.Option(help="Local constants around samples of digits, mnist, ..., or FILE.npz; test part.")
    ] = None,
    eps: Annotated[str, typer.Option(help="Radius of the ball around each sample, in the norm.")] = "0.1",
    index: Annotated[str | None, typer.Option(help="Only samples A:B of the data, counted from 0.")] = None,
    domains: Annotated[int, typer.Option(help="Parts into which branch and bound may split each ball.", min=1)] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds per sample; inf for no limit.")] = 10.0,
    as_object: options.Json = False,
) -> None:
    """Bound a network's Lipschitz constant over all inputs, or over balls around samples.

    Over all inputs: the constants of its parts, and their product. Around a sample: a bound of the Jacobian, and the
    largest gradient that was met, which the constant is not below. Bounds are rounded up. Exit status: 0 all done,
    2 bad input, 130 stopped before the end.
    """
    from certify.frontends.load import load_network

    if norm not in NORMS:
        raise BadOption(f"--norm {norm}: there is no such norm", "use 2, inf or 1")
    if sdp and (norm != "2" or data is not None):
        raise BadOption("--sdp bounds constants in L2 over all inputs", "use --norm 2, without --data")
    graph = load_network(net).graph
    if data is not None:
        _around_samples(graph, norm, data, options.parse_radii(eps)[0][1], index, (domains, timeout), as_object)
        return
    from certify.lipschitz.network import global_bound

    found = global_bound(graph, NORMS[norm])
    constant, parts = found.constant, found.parts
    if sdp:
        from certify.lipschitz.sdp import lip_sdp

        solved, stretches = lip_sdp(graph)
        constant, parts = min((constant, parts), (solved, stretches), key=lambda one: one[0])
    if as_object:
        emit(as_json({"hash": graph.hash, "norm": norm, "constant": constant, "parts": [_object(p) for p in parts]}))
        return
    rows = [(_name(graph, p), _operators(graph, p), f"{p.bound.value:.9g}", p.bound.how.value) for p in parts]
    show_table(("part", "operators", "constant", "rests on"), rows)
    emit(f"constant  {constant:.9g}")


def _around_samples(
    graph: Graph, norm: str, data: str, radius: float, index: str | None, effort: tuple[int, float], as_object: bool
) -> None:
    from certify.lipschitz.branch import local_bound
    from certify.spec.regions import ball
    from models.data import load

    domains, timeout = effort
    Budget(timeout)  # refuses what is not positive
    samples = load(data)
    if samples.x_test[0].size != graph.input_size:
        what = f"the data have {samples.x_test[0].size} values per sample; the network has {graph.input_size} inputs"
        raise BadOption(what, "check that network and data belong together")
    span = options.parse_span(index, len(samples.y_test))
    rows = []
    budget = Budget()
    with Stop(budget), Bar(len(span), "samples") as bar:
        for i in span:
            part = budget.part(None if timeout == float("inf") else timeout)
            region = ball(samples.x_test[i], radius, NORMS[norm])
            found = local_bound(graph, region, NORMS[norm], domains=domains, budget=part)
            if budget.cancelled:
                break
            rows.append(
                (i, f"{found.upper:.9g}", f"{found.attained:.9g}", "yes" if found.exact else "no", found.domains)
            )
            if as_object:
                numbers = {"upper": found.upper, "attained": found.attained, "exact": found.exact}
                emit(as_json({"index": i, "norm": norm, "radius": radius, **numbers, "domains": found.domains}))
            bar.advance(len(rows), f"{sum(row[3] == 'yes' for row in rows)} exact")
    show_table(("sample", "constant at most", "at least", "exact", "domains"), rows, stderr=as_object)
    if len(rows) < len(span):
        say(f"stopped: {len(rows)} of {len(span)} samples are done")
        raise typer.Exit(ABORTED)


def _name(graph: Graph, part: Part) -> str:
    first, last = graph.nodes[part.first + 1].name, graph.nodes[part.last].name
    return last if part.last == part.first + 1 else f"{first} to {last}"


def _operators(graph: Graph, part: Part) -> str:
    names = [type(node.op).__name__ for node in graph.nodes[part.first + 1 : part.last + 1]]
    return ", ".join(names) if len(names) <= 4 else f"{len(names)} operators"


def _object(part: Part) -> dict[str, object]:
    return {
        "first": part.first,
        "last": part.last,
        "constant": part.bound.value,
        "how": part.bound.how.name.lower(),
    }
