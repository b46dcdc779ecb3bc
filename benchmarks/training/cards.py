"""What the cards of saved models say of balls: clean, attacked and certified accuracy, counted here.

`python -m benchmarks.training.cards digits-mlp-ibp --eps 0.05 --samples 100 --out DIR` certifies the first test images
as `certify robust` does, attacks them as `certify attack` does, and writes the shares into the card beside the network
(a saved model's name, FILE.safetensors, or a folder of `certify train`). Stopped or killed anywhere, the same command
goes on. `--add NAME` first puts the network among the saved models: `python -m benchmarks.training.cards FOLDER --add
mnist-cnn-ibp --data mnist --eps 0.1 --samples 1000 --out DIR`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from benchmarks.attack import AttackResult, Campaign
from benchmarks.command import entry
from benchmarks.robust import Assessment, SampleStore, Threat, data_hash, summarise
from benchmarks.threats import Moved
from certify.budget import Budget
from certify.errors import CertifyError
from certify.frontends.load import TRAINED, load_network
from certify.strategy import Method, Strategy
from models import zoo
from models.data import Data, load

RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class Questions:
    """What is asked about a network: the radius `eps` (a number or a fraction) in the norm inf, 2 or 1 around the first
    `samples` test images, at most `timeout` seconds for the verdict on each, by which method; and which attack with
    which seed."""

    eps: str
    samples: int
    timeout: float = 10.0
    attack: str = "quick"
    seed: int = 0
    norm: str = "inf"
    method: Method = Method.AUTO

    @property
    def epsilon(self) -> float:
        return float(Fraction(self.eps))

    def commands(self, data: str, samples: int) -> str:
        """What asks the same on the command line."""
        place = f"--data {data} --norm {self.norm} --eps {self.eps} --index 0:{samples}"
        method = "" if self.method is Method.AUTO else f" --method {self.method.value}"
        robust = f"certify robust NET {place}{method} --timeout {self.timeout:g}"
        return f"{robust}; certify attack NET {place} --attack {self.attack} --seed {self.seed}"


def measured(
    network: Path, data: Data, data_name: str, questions: Questions, folder: Path, budget: Budget | None = None
) -> zoo.Measured | None:
    """The answers, which go into the network's card, too; every sample's is kept in the folder. None if the budget is
    cancelled before the last one; the same call then goes on.

    Raises CertifyError if the network has no card, or if an attack misleads it on an image that was verified: a bug in
    certify.
    """
    budget = Budget() if budget is None else budget
    zoo.card_beside(network)  # refused now rather than when all is done
    imported = load_network(network)
    span = range(min(questions.samples, len(data.y_test)))
    asked = {
        "network": imported.graph.hash,
        "data": data_hash(data.x_test, data.y_test),
        "eps": questions.eps,
        "norm": questions.norm,
    }
    store = SampleStore(folder / "robust", {**asked, "timeout": questions.timeout, "method": questions.method.value})
    assessment = Assessment(
        imported,
        data.x_test,
        data.y_test,
        Threat(float(questions.norm), RANGE),
        Strategy(questions.method),
        questions.timeout,
    )
    for result in assessment.judge(span, [(questions.eps, questions.epsilon)], budget, list(store.results)):
        store.append(result)
    seeded = {**asked, "attack": questions.attack, "seed": questions.seed}
    attacks = SampleStore(folder / "attack", seeded, AttackResult)
    campaign = Campaign(imported, data.x_test, data.y_test, RANGE, questions.attack, questions.seed)
    moved = Moved(questions.norm, questions.eps, questions.epsilon)
    for found, _ in campaign.run(span, [moved], budget, list(attacks.results)):
        attacks.append(found)
    if not all({r.index for r in results} >= set(span) for results in (store.results, attacks.results)):
        return None
    verdicts = {r.index: r for r in store.results if r.index in span}
    fooled = {r.index for r in attacks.results if r.fooled}
    wrong = [i for i, r in verdicts.items() if r.verdict == "verified" and i in fooled]
    if wrong:
        raise CertifyError(f"{folder}: image {wrong[0]} is verified and yet misclassified", "report this as a bug")
    (row,) = summarise(verdicts.values())
    standing = sum(r.verdict != "falsified" and i not in fooled for i, r in verdicts.items())
    shares = (round(count / row.samples, 4) for count in (row.clean, standing, row.certified))
    answers = zoo.Measured(
        questions.epsilon, questions.norm, row.samples, *shares, questions.commands(data_name, row.samples)
    )
    zoo.measure(network, answers)
    return answers


def file_of(network: str) -> Path:
    """Where the weights of a saved model, of a file's or of a folder's network lie."""
    if network in zoo.names():
        return zoo.SAVED / f"{network}.safetensors"
    return Path(network) / TRAINED if Path(network).is_dir() else Path(network)


def main() -> None:
    """Measure, and write the cards."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training.cards",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("networks", nargs="+", help="names of saved models, or files")
    parser.add_argument("--add", metavar="NAME", help="put the network among the saved models, by this name")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--eps", default="0.05", help="radii, with commas")
    parser.add_argument("--norm", choices=("inf", "2", "1"), default="inf")
    parser.add_argument("--method", choices=[m.value for m in Method], default=Method.AUTO.value, help="of verdicts")
    parser.add_argument("--samples", type=int, default=100, help="the first test images")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for the verdict on an image")
    parser.add_argument("--attack", default="quick", help="as `certify attack --attack`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for what was found of every image")
    given = parser.parse_args()
    if given.add and len(given.networks) > 1:
        parser.error("--add names one network")
    data = load(given.data)
    for name in given.networks:
        path = file_of(name) if given.add is None else zoo.add(file_of(name), given.add)
        called = path.resolve().parent.name if path.name == TRAINED else path.stem  # every folder's file has that name
        for eps in given.eps.split(","):
            rest = (given.samples, given.timeout, given.attack, given.seed, given.norm, Method(given.method))
            questions = Questions(eps, *rest)
            folder = given.out / f"{called}-{given.norm}-{eps.replace('/', '-')}"
            print(f"{called}: {measured(path, data, given.data, questions, folder)}", flush=True)


if __name__ == "__main__":
    entry(main)
