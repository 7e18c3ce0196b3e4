"""PGD-20 next to that of other packages, and AutoAttack next to its own package with the same seed,
on the same network and images."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pyautoattack
import torch
from torch import Tensor, nn

from bench.archs import resolve
from bench.attacks import PGD, AutoAttack, FastAutoAttackPart, get_attack
from bench.errors import unknown_name
from bench.evaluation import evaluate
from bench.machine import has_fast_bf16
from bench.seeding import generator_for, seed_for
from benchmarks import turns, workloads
from benchmarks.workloads import AttackedModel

PGD_20 = ("pgd-20", "pgd-20-fast", "pgd-20-fast-fp32")
AUTOATTACK = ("autoattack", "autoattack-fast", "autoattack-fast-fp32")
Side = Callable[[], Tensor]
"""-> (n,) bool: which images survived."""


def evaluated(model: AttackedModel, attack: str) -> Side:
    """Return a whole `evaluate` with one attack, as a user calls it."""

    m = model

    def run() -> Tensor:
        return evaluate(m.network, m.x, m.y, m.threat, attacks=(attack,)).survivors[attack].cpu()

    return run


def torchattacks_pgd(model: AttackedModel, pgd: PGD) -> Side:
    import torchattacks

    length = pgd.relative_step * model.threat.eps
    attack = torchattacks.PGD(model.network, eps=model.threat.eps, alpha=length, steps=pgd.steps)
    return lambda: model.survivors(attack(model.x, model.y))


def foolbox_pgd(model: AttackedModel, pgd: PGD) -> Side:
    import foolbox

    wrapped = foolbox.PyTorchModel(model.network, bounds=(0, 1), device=model.x.device)
    attack = foolbox.attacks.LinfPGD(steps=pgd.steps, rel_stepsize=pgd.relative_step)
    return lambda: model.survivors(attack(wrapped, model.x, model.y, epsilons=model.threat.eps)[1])


def art_pgd(model: AttackedModel, pgd: PGD) -> Side:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model=model.network,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(model.x.shape[1:]),
        nb_classes=workloads.CLASSES,
        clip_values=(0.0, 1.0),
        device_type="cpu" if model.x.device.type == "cpu" else "gpu",
    )
    attack = ProjectedGradientDescent(
        classifier,
        norm="inf",
        eps=model.threat.eps,
        eps_step=pgd.relative_step * model.threat.eps,
        max_iter=pgd.steps,
        num_random_init=1,
        batch_size=len(model.x),
        verbose=False,
    )
    x, y = model.x.cpu().numpy(), model.y.cpu().numpy()
    return lambda: model.survivors(torch.from_numpy(attack.generate(x, y)).to(model.x.device))


PEERS = {
    "torchattacks": ("torchattacks", torchattacks_pgd),
    "foolbox": ("foolbox", foolbox_pgd),
    "ART": ("adversarial-robustness-toolbox", art_pgd),
}
"""Package -> its name on PyPI, and a function that makes its PGD with our steps and eps."""


@dataclass(frozen=True, kw_only=True)
class ShortPart(FastAutoAttackPart):
    """A part of AutoAttack with a share of its iterations."""

    effort: float = 1.0

    def _attack(self, *args: Any) -> Any:
        return shorten(super()._attack(*args), self.effort)


def shorten(attack: Any, effort: float) -> Any:
    """Keep only a share of the package's iterations or queries; each attack has one of the two."""
    for name in ("n_iter", "n_queries"):
        if hasattr(attack, name):
            setattr(attack, name, max(1, round(getattr(attack, name) * effort)))
    return attack


def our_autoattack(model: AttackedModel, attack: str, effort: float) -> Side:
    """Return a whole evaluation, or only the attack if it is shortened."""
    if effort == 1:
        return evaluated(model, attack)
    found = get_attack(attack)
    assert isinstance(found, AutoAttack)
    short = AutoAttack(parts=tuple(ShortPart(**vars(p), effort=effort) for p in found.parts))

    def run() -> Tensor:
        draw = generator_for(0, attack, 0, device=model.x.device)
        return model.survivors(short(model.network, model.x, model.y, model.threat, generator=draw))

    return run


def package_autoattack(model: AttackedModel, effort: float) -> Side:
    """Return the package's standard evaluation, all images in one batch."""
    x, y, eps, seed = model.x, model.y, model.threat.eps, seed_for(0, "autoattack", 0)

    def run() -> Tensor:
        suite = pyautoattack.AutoAttack(
            model.network, eps=eps, seed=seed, version="standard", device=x.device
        )
        for part in (suite.apgd, suite.apgd_targeted, suite.fab, suite.square):
            shorten(part, effort)
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            x_adv = suite.run_standard_evaluation(x, y, batch_size=len(y))[0]
        return model.survivors(x_adv.to(x.device))

    return run


def attack_row(
    attack: str, model: AttackedModel, ours: Side, theirs: Side, rounds: int
) -> dict[str, Any]:
    """Measure both in turns; n_apart counts the images that only one side broke.

    Another package's PGD starts from its own noise, so some images differ.
    """
    survived: dict[str, Tensor] = {}
    sides = [lambda: survived.update(ours=ours()), lambda: survived.update(theirs=theirs())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other packages
        our_seconds, their_seconds = turns.in_turns(sides, rounds)
    search = get_attack(attack).search
    return {
        **turns.compared(attack, our_seconds, their_seconds, len(model.y)),
        "precision": "fp32" if search == "network" else search,
        "image_size": model.x.shape[-1],
        "share_of_peak": None,
        "robust_share": float(survived["ours"].float().mean()),
        "reference_robust_share": float(survived["theirs"].float().mean()),
        "n_apart": int((survived["ours"] != survived["theirs"]).sum()),
        "note": None,
    }


@click.command()
@turns.options
@turns.network_options
@click.option("--only", callback=turns.names, help=f"{','.join((*PGD_20, *AUTOATTACK))}.  [all]")
@click.option("--images", type=int, help="Of PGD-20.  [cnn 1024, others 16]")
@click.option("--autoattack-images", type=int, help="Of AutoAttack.  [cnn 64, others 4]")
@click.option("--effort", type=float, help="Share of AutoAttack's iterations.  [cnn 1, others 0.1]")
@turns.out_option("Also write the rows as JSON.")
def main(
    arch: tuple[str, ...],
    rounds: int,
    image_size: int,
    device: str,
    only: tuple[str, ...],
    images: int | None,
    autoattack_images: int | None,
    effort: float | None,
    out: Path | None,
) -> None:
    """Time PGD-20 next to torchattacks, foolbox and ART, and AutoAttack next to its package.

    `pip install 'atbench[peers]'` installs the packages; those that are missing are left out.
    Without --only this takes an hour on a CPU.

    \b
    python -m benchmarks.attacks --only pgd-20,pgd-20-fast --arch cnn
    python -m benchmarks.attacks --only autoattack --arch resnet-18 --effort 0.1 --rounds 3
    """
    for name in only:
        if name not in PGD_20 + AUTOATTACK:
            raise click.UsageError(str(unknown_name("attack", name, PGD_20 + AUTOATTACK)))
    where = turns.begin(device, out)
    logging.getLogger("auto-attack").disabled = True
    pgd = get_attack("pgd-20")
    assert isinstance(pgd, PGD)
    rows: list[dict[str, Any]] = []

    def add(network: str, reference: str, note: str | None, row: dict[str, Any]) -> None:
        rows.append({**row, "arch": resolve(network), "reference": reference, "note": note})
        turns.keep(out, rows, where)

    for network in arch:
        small = network == "cnn"
        model = workloads.partly_robust(
            network, images or (1024 if small else 16), image_size, where
        )
        few = model.first(autoattack_images or (64 if small else 4))
        share = effort or (1.0 if small else 0.1)
        for attack in only or PGD_20 + AUTOATTACK:
            if attack.endswith("-fast") and not only and not has_fast_bf16(where):
                continue
            if attack in AUTOATTACK:
                sides = our_autoattack(few, attack, share), package_autoattack(few, share)
                note = None if share == 1 else f"{share:.0%} of the iterations"
                row = attack_row(attack, few, *sides, rounds)
                add(network, f"pyautoattack {version('pyautoattack')}", note, row)
                continue
            for peer, (package, make) in PEERS.items():
                try:
                    theirs = make(replace(model), pgd)
                except ImportError as error:
                    click.echo(f"{peer} is left out: {error}", err=True)
                    continue
                row = attack_row(attack, model, evaluated(model, attack), theirs, rounds)
                add(network, f"{peer} {version(package)}", None, row)
    turns.show(rows, where)


if __name__ == "__main__":
    main()
