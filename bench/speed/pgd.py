"""An evaluation under PGD beside the same PGD of other packages."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from bench.attacks import PGD, get_attack
from bench.speed.attacked import Attacked, compared, evaluated
from bench.speed.peers import INSTALL, PEERS, Peer, quietly
from bench.speed.row import Row
from bench.speed.setting import Setting
from bench.speed.subject import JUDGE, Subject, make_subject, survivors


def pgd_rows(attack: str, setting: Setting) -> Iterator[Row]:
    """A row for each package; a package attacks, and the network is asked for its predictions."""
    subject = make_subject(setting)
    for peer in PEERS:
        theirs, note = _theirs(subject, peer)
        yield compared(
            *(attack, setting, subject),
            evaluated(subject, attack),
            theirs,
            reference=f"{peer.name} {peer.version}" if peer.version else peer.name,
            note=note,
        )


def _theirs(subject: Subject, peer: Peer) -> tuple[Attacked | None, str | None]:
    """The package's side; or None, and why."""
    if peer.version is None:
        return None, INSTALL
    pgd = get_attack(JUDGE)
    assert isinstance(pgd, PGD)
    try:
        with quietly():
            attack = peer.make(subject.network, subject.threat, pgd)
    except ImportError as error:
        return None, f"cannot be imported: {error}"

    def run() -> Tensor:
        return survivors(subject.network, attack(subject.x, subject.y), subject.y)

    return run, None
