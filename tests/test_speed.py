"""`bench speed`: what it measures, in the smallest sizes; never how fast anything is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from bench.archs import build
from bench.attacks import Cascade, get_attack
from bench.cli import main
from bench.errors import ConfigError
from bench.machine import describe_machine, has_fast_bf16
from bench.progress import Reporter
from bench.registry import list_methods
from bench.speed import memory, peers, reference
from bench.speed.autoattack import autoattack_rows, shortened
from bench.speed.counting import Counted
from bench.speed.layers import layers_of
from bench.speed.memory import peak_memory
from bench.speed.page import speed_page
from bench.speed.pgd import pgd_rows
from bench.speed.plan import make_jobs, measures, rows_of
from bench.speed.rounds import Rounds, in_rounds, timed
from bench.speed.row import Row, table
from bench.speed.setting import Setting, settings
from bench.speed.steps import made_dataset, step_of, step_row
from bench.speed.subject import make_subject, survivors
from bench.threat import Threat
from bench.training.passes import Passes

CPU = torch.device("cpu")
KEYS = {
    *("what", "arch", "precision", "ours_images_per_second", "reference_images_per_second"),
    *("ratio", "n_rounds", "share_of_peak", "reference", "image_size", "n_images", "passes"),
    *(
        "share_of_matrix_peak",
        "ratios",
        "reference_passes",
        "peak_bytes",
        "reference_peak_bytes",
        "memory",
        "robust_share",
    ),
    *("reference_robust_share", "n_apart", "note", "threads", "machine", "command"),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(**changed: Any) -> Setting:
    given: dict[str, Any] = {"rounds": 1, "image_size": 8, "batch_size": 8, "images": 24}
    given |= {"autoattack_images": 6, "effort": 0.02, "memory": False, "peak": False}
    (setting,) = settings(("cnn",), ("fp32",), CPU, **(given | changed))
    return setting


def bench(*asked: str) -> Result:
    return CliRunner().invoke(main, ["speed", *asked])


SMALL = ("--arch", "cnn", "--image-size", "8", "--batch-size", "8", "--images", "24")


def test_the_rows_are_written_with_every_key(tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    asked = ("--only", "step-natural,pgd-20", "--precision", "fp32,bf16", "--rounds", "2")
    done = bench(*asked, *SMALL, "--no-memory", "--no-peak", "--out", str(out), "--device", "cpu")
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())
    assert all(set(row) == KEYS for row in rows)
    steps = [row for row in rows if row["what"] == "step-natural"]
    assert [row["precision"] for row in steps] == ["fp32", "bf16"]
    assert all(row["reference"] == "plain loop" for row in steps)
    # once, though two precisions were asked for, and a row for each package
    attacks = [row for row in rows if row["what"] == "pgd-20"]
    assert [row["precision"] for row in attacks] == ["fp32"] * len(peers.PEERS)
    assert len(rows) == 2 + len(peers.PEERS)
    for row in rows:
        assert row["ours_images_per_second"] > 0
        assert (row["ratio"] is None) == (row["reference_images_per_second"] is None)
        assert row["n_rounds"] == 2
        assert len(row["ratios"]) == (0 if row["ratio"] is None else 2)
        assert row["share_of_peak"] is None
        assert row["threads"] == row["machine"]["threads"]
    assert "times faster" in done.output
    assert list(tmp_path.iterdir()) == [out]


def test_quiet_prints_nothing() -> None:
    asked = ("--only", "step-natural", "--precision", "fp32", "--rounds", "1", "--quiet")
    done = bench(*asked, *SMALL, "--no-memory", "--no-peak")
    assert (done.exit_code, done.output) == (0, "")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            ("--only", "step-tradse"),
            "unknown measurement 'step-tradse'. Did you mean 'step-trades'",
        ),
        (("--only", "step-trades,pgd-21"), "unknown measurement 'pgd-21'. Did you mean 'pgd-20'"),
        (("--arch", "resnet-81"), "unknown arch 'resnet-81'. Did you mean 'resnet-18'"),
        (("--precision", "fp16"), "unknown precision 'fp16'"),
        (("--rounds", "0"), "--rounds is out of range: at least 1"),
        (("--images", "4", "--autoattack-images", "5"), "no more than --images"),
        (("--effort", "0"), "--effort is out of range: above 0"),
    ],
)
def test_a_mistake_is_one_line(asked: tuple[str, ...], message: str) -> None:
    done = bench(*asked)
    assert done.exit_code == 2
    assert message in done.output


def test_everything_there_is_can_be_asked_for() -> None:
    names = list(measures())
    assert {f"step-{method}" for method in list_methods()} <= set(names)
    assert {"pgd-20", "autoattack"} <= set(names)
    both = [tiny(), replace(tiny(), precision="bf16")]
    jobs = [str(job) for job in make_jobs((), both)]
    steps = [name for name in names if name.startswith("step-")]
    for name in steps:
        assert jobs.count(f"{name} cnn fp32") == jobs.count(f"{name} cnn bf16") == 1
    assert [job for job in jobs if not job.startswith("step-")] == [
        f"{name} cnn fp32"
        for name in names
        if name not in steps and (has_fast_bf16(CPU) or not name.endswith("-fast"))
    ]
    assert [job.name for job in make_jobs(("pgd-20", "pgd-20"), both)] == ["pgd-20"]


def test_networks_have_sizes_of_their_own() -> None:
    cnn, large = settings(("cnn", "resnet-18"), ("fp32",), CPU, rounds=1)
    assert (cnn.sizes.batch_size, large.sizes.batch_size) == (128, 32)
    assert (cnn.sizes.effort, large.sizes.effort) == (1.0, 0.1)
    assert large.sizes.n_autoattack == 4
    # an alias and its name are one network
    assert len(settings(("wrn", "wrn-34-10"), ("fp32", "fp32"), CPU, rounds=1)) == 1


def test_rounds_take_turns_and_the_first_to_go_alternates() -> None:
    order: list[str] = []
    found = in_rounds(lambda: order.append("o"), lambda: order.append("r"), 3, CPU)
    assert "".join(order) == "or" + "or" + "ro" + "or"
    assert len(found.ours) == len(found.reference) == 3
    alone = in_rounds(lambda: order.append("a"), None, 2, CPU, warm_up=False)
    assert "".join(order[8:]) == "aa"
    assert (alone.ratio, alone.reference_seconds, alone.shares) == (None, None, ())
    floors = iter([0.5, 0.1, 0.25, 0.2])
    found = in_rounds(lambda: None, None, 2, CPU, floors=[lambda: next(floors)] * 2)
    assert found.floors == ((0.5, 0.25), (0.1, 0.2))


def test_a_share_is_the_median_of_the_rounds_own() -> None:
    floors = ((0.5, 1.8, 6.0), (0.1, 0.4, 1.0))
    found = Rounds(ours=(1.0, 2.0, 10.0), reference=(), floors=floors)
    assert found.shares == (0.6, 0.1)  # of 0.5, 0.9 and 0.6; of 0.1, 0.2 and 0.1


def test_the_ratio_is_the_median_of_the_rounds_own() -> None:
    found = Rounds(ours=(1.0, 2.0, 10.0), reference=(3.0, 8.0, 10.0))
    assert found.ratios == (3.0, 4.0, 1.0)
    assert found.ratio == 3.0  # of 3, 4 and 1, where 8 / 2 of the medians would be 4
    assert (found.seconds, found.reference_seconds) == (2.0, 8.0)
    assert timed(lambda: time.sleep(0.01), CPU) >= 0.01


def test_passes_are_counted_once_and_updates_apart() -> None:
    network = build("cnn")
    x = torch.rand(4, 3, 8, 8, requires_grad=True)

    def work() -> None:
        network(x)
        network(x).sum().backward()
        network.requires_grad_(False)
        torch.autograd.grad(network(x).sum(), x)
        network.requires_grad_(True)

    counted = Counted(work, network, 4)
    counted()
    counted()
    assert counted.passes == Passes(3, 2, 3)
    assert counted.updates == 1


@pytest.mark.parametrize(
    ("method", "ours", "plain"),
    [
        ("natural", (1, 1), (1, 1)),
        ("madry", (11, 11), (12, 11)),
        ("trades", (13, 12), (23, 13)),
        ("mart", (12, 12), (12, 12)),
        ("fast", (2, 2), (2, 2)),
        ("free", (8, 8), (8, 8)),
        ("cat-ce", (12, 11), (12, 11)),
    ],
)
def test_a_step_is_set_beside_its_plain_loop(method: str, ours: Any, plain: Any) -> None:
    row = step_row(method, tiny())
    assert row.what == f"step-{method}"
    assert row.passes is not None
    assert row.reference_passes is not None
    assert (row.passes.forward, row.passes.backward) == ours
    assert (row.reference_passes.forward, row.reference_passes.backward) == plain
    assert row.ratio is not None
    assert row.note is None


def test_both_sides_begin_with_equal_weights_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first natural step has the loss of the network as it was drawn, on both sides."""
    seen: list[float] = []

    def watched(network: nn.Module, optimiser: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
        seen.append(nn.functional.cross_entropy(network(x), y).item())
        return torch.zeros(())

    monkeypatch.setattr("bench.speed.steps.loop_for", lambda method: (watched, ""))
    step_of("natural", tiny(), plain=True)()
    from bench.speed.steps import _ours, _spec

    _, network, x, y = _ours(_spec("natural", tiny()), tiny())
    assert seen == [pytest.approx(nn.functional.cross_entropy(network(x), y).item(), rel=1e-5)]
    assert torch.equal(y, torch.arange(8))
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1


def test_a_method_without_a_plain_loop_is_measured_alone() -> None:
    row = step_row("adv-ls", tiny())
    assert (row.reference, row.ratio, row.reference_passes) == (None, None, None)
    assert row.note == reference.NO_LOOP
    assert row.ours_images_per_second > 0


def test_without_a_checkout_a_step_is_measured_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "FILE", tmp_path / "loops.py")
    row = step_row("natural", tiny())
    assert (row.reference, row.note) == (None, reference.NO_CHECKOUT)


def test_the_share_of_peak_is_of_the_measured_step(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def floor(network: nn.Module, x: Any, passes: Passes, precision: str, **rest: float) -> Any:
        asked.update(rest, passes=passes, precision=precision, shape=tuple(x.shape))
        return 1e-9

    monkeypatch.setattr("bench.speed.steps.floor_seconds", floor)
    monkeypatch.setattr("bench.speed.steps.matmul_peak", lambda *_: 1e15)
    row = step_row("trades", tiny(peak=True))
    assert row.share_of_peak == pytest.approx(1e-9 * row.ours_images_per_second / 8)
    assert asked["updates"] == 2  # the clean and the adversarial images
    assert asked["shape"] == (8, 3, 8, 8)
    # 13 forward and 12 backward passes; the first layer hands back nothing in the 2 updates, whose
    # gradients of weights come on top
    first, *others = (layer.flops for layer in layers_of(build("cnn"), torch.rand(8, 3, 8, 8)))
    n_flops = (13 + 10 + 2) * first + (13 + 12 + 2) * sum(others)
    seconds = 8 / row.ours_images_per_second
    assert row.share_of_matrix_peak == pytest.approx(n_flops / 1e15 / seconds)


def test_memory_is_of_a_process_of_its_own() -> None:
    found = peak_memory("natural", tiny(batch_size=256, image_size=32), plain=True)
    assert found is not None
    maps = 256 * 16 * 32 * 32 * 4  # the first block's: images, channels, pixels, bytes
    assert 2 * maps < found.n_bytes < 40 * maps  # kept after the convolution and after BatchNorm
    assert "resident" in found.kind


def test_a_process_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "__name__", "bench.speed.nothing")
    with pytest.raises(Exception, match=r"memory of natural failed: .*bench\.speed\.nothing"):
        peak_memory("natural", tiny(), plain=True)


def test_about_two_fifths_of_the_attacked_images_stand() -> None:
    subject = make_subject(tiny())
    assert abs(subject.robust_share - 0.4) <= 0.1
    assert 0 < subject.threat.eps < 0.5
    assert not subject.network.training
    assert subject.x is make_subject(tiny(rounds=3)).x  # made once
    assert torch.equal(subject.x[:, 0], subject.x[:, 2])
    clean = survivors(subject.network, subject.x, subject.y).float().mean()
    assert float(clean) > 0.8


def test_packages_run_the_same_pgd() -> None:
    """The share that is right is like ours; a package with other steps or eps would differ."""
    rows = list(pgd_rows("pgd-20", tiny()))
    assert [row.reference and row.reference.split()[0] for row in rows] == [
        peer.name for peer in peers.PEERS
    ]
    measured = [row for row in rows if row.ratio is not None]
    assert measured, "foolbox is a test dependency"
    for row in measured:
        assert row.robust_share is not None
        assert row.reference_robust_share is not None
        assert abs(row.robust_share - row.reference_robust_share) <= 0.17
        assert row.n_apart is not None
        assert row.n_apart <= 4
        assert row.reference_passes is not None
        assert row.reference_passes.backward == 20


def test_packages_stay_inside_the_threat() -> None:
    subject = make_subject(tiny())
    pgd = get_attack("pgd-20")
    for peer in peers.PEERS:
        if peer.version is None:
            continue
        with peers.quietly():
            x_adv = peer.make(subject.network, subject.threat, pgd)(subject.x, subject.y)  # type: ignore[arg-type]
        far = Threat().distance(x_adv, subject.x)
        assert float(far.max()) == pytest.approx(subject.threat.eps, abs=1e-5), peer.name
        assert float(x_adv.min()) >= 0
        assert float(x_adv.max()) <= 1


def test_a_package_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = peers.Peer("gone", "no-such-package-of-attacks", peers.PEERS[0].make)
    monkeypatch.setattr("bench.speed.pgd.PEERS", (gone,))
    (row,) = pgd_rows("pgd-20", tiny())
    assert row.note == "not installed: pip install 'atbench[peers]'"
    assert (row.reference, row.ratio, row.n_apart) == ("gone", None, None)
    assert row.ours_images_per_second > 0


def test_autoattack_breaks_the_images_that_the_package_breaks() -> None:
    (row,) = autoattack_rows("autoattack", tiny())
    assert row.n_apart == 0
    assert row.note == "2% of the iterations"
    assert row.reference is not None
    assert row.reference.startswith("pyautoattack ")
    assert (row.n_images, row.robust_share) == (6, row.reference_robust_share)


def test_a_short_autoattack_has_fewer_iterations() -> None:
    whole = get_attack("autoattack")
    assert isinstance(whole, Cascade)
    short = shortened(whole, 0.1)
    found = {}
    for part in short.parts:
        attack = part._attack(nn.Identity(), Threat(), 10, 0, CPU)
        found[part.part] = getattr(attack, "n_queries", None) or attack.n_iter
    assert found == {"apgd-ce": 10, "apgd-t": 10, "fab-t": 10, "square": 500}


@pytest.mark.parametrize("name", ["pgd-20-fast-fp32", "autoattack-fast-fp32"])
def test_a_search_on_a_copy_is_measured_too(name: str) -> None:
    for row in measures()[name](tiny()):
        assert (row.what, row.precision) == (name, "fp32")
        assert row.passes is not None
        assert row.passes.backward > 5  # those of the copy
        assert row.robust_share is not None
        assert row.reference_robust_share is None or (
            abs(row.robust_share - row.reference_robust_share) <= 0.17
        )


def test_a_package_that_does_not_import_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_: Any) -> Any:
        raise ImportError("no module named 'requests'")

    broken = peers.Peer("broken", "torch", make)
    monkeypatch.setattr("bench.speed.pgd.PEERS", (broken,))
    (row,) = pgd_rows("pgd-20", tiny())
    assert row.note == "cannot be imported: no module named 'requests'"
    assert row.ratio is None


def test_autoattack_in_full_goes_through_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.short import ShortAutoAttack

    monkeypatch.setattr("pyautoattack.AutoAttack", ShortAutoAttack)
    (row,) = autoattack_rows("autoattack", tiny(effort=1.0, rounds=9, autoattack_images=2))
    assert (row.n_apart, row.note, row.n_rounds) == (0, None, 3)


def test_the_table_shows_what_was_not_measured_as_such() -> None:
    row = Row(
        what="step-x",
        arch="cnn",
        precision="fp32",
        ours_images_per_second=123.4,
        n_rounds=3,
        image_size=8,
        n_images=4,
        note="no plain loop",
    )
    full = replace(
        row,
        reference="plain loop",
        reference_images_per_second=2.5,
        ratio=49.36,
        ratios=(49.36, 48.0, 51.239),
        share_of_peak=0.5,
        peak_bytes=3 * 2**20,
        memory="growth",
        passes=Passes(11, 11, 11),
    )
    lines = table([row, full], describe_machine(CPU)).splitlines()
    assert lines[1].split()[:6] == ["step-x", "cnn", "fp32", "4", "123", "-"]
    assert lines[1].endswith("no plain loop")
    assert " 49.36 (48.00 to 51.24) " in lines[2]
    assert "50%" in lines[2]
    assert "11 + 11" in lines[2]
    assert "Medians of 3 rounds" in lines[3]
    assert lines[-1] == "MiB: growth."
    once = table([replace(full, n_rounds=1, ratios=(49.36,))], describe_machine(CPU)).splitlines()
    assert " 49.36 " in once[1]
    assert "(" not in once[1]
    assert "Medians of 1 round " in once[2]


def test_made_images_are_the_same_every_time() -> None:
    first, again = made_dataset(12, 8), made_dataset(12, 8)
    assert (first.train.x == again.train.x).all()  # type: ignore[union-attr]
    assert first.train.y.tolist() == [*range(10), 0, 1]


def test_rows_come_in_the_order_asked_for() -> None:
    jobs = make_jobs(("step-natural", "step-fast"), [tiny()])
    with Reporter(quiet=True) as reporter:
        assert [row.what for row in rows_of(jobs, reporter)] == ["step-natural", "step-fast"]


def test_an_unknown_network_is_refused_before_any_work() -> None:
    with pytest.raises(ConfigError, match="unknown arch"):
        settings(("cnn", "nn"), ("fp32",), CPU, rounds=1)


@pytest.fixture
def measured_row() -> dict[str, Any]:
    """As a record holds it."""
    return {
        "what": "step-madry",
        "arch": "cnn",
        "precision": "bf16",
        "n_images": 128,
        "ours_images_per_second": 351.2,
        "reference": "plain loop",
        "reference_images_per_second": 100.0,
        "ratio": 3.512,
        "ratios": [3.4, 3.512, 3.52],
        "share_of_peak": 0.655,
        "robust_share": None,
        "n_apart": None,
        "n_rounds": 7,
        "note": None,
        "threads": 2,
        "machine": {"device": "cpu", "processor": "P", "packages": {"torch": "2.6"}},
        "command": "bench speed --only step-madry --out a.json",
    }


def test_the_page_of_the_records_has_a_row_each(measured_row: dict[str, Any]) -> None:
    row = measured_row
    alone = {"reference": None, "ratio": None, "note": "compiled"}
    alone["command"] = "bench speed --out b.json"
    page = speed_page([row, row, row | alone])
    commands = [line.strip() for line in page.splitlines() if line.startswith("    bench")]
    assert commands == [row["command"], alone["command"]]
    table = [line for line in page.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[-2:]]
    assert cells[0][:7] == ["step-madry", "cnn", "bf16", "128", "351", "plain loop", "100"]
    assert cells[0][7] == "3.51 (3.40 to 3.52)"
    assert cells[0][8:] == ["66%", "7"]  # no column for what none of them has
    assert cells[1][0] == "step-madry (compiled)"
    assert cells[1][5:8] == ["-", "100", "-"]
    assert page.count("## cpu, P, 2 threads, torch 2.6") == 1
    assert "of matrix peak |" not in page
    assert "| of matrix peak |" in speed_page([row, row | {"share_of_matrix_peak": 0.25}])


def test_the_page_has_a_section_a_machine(measured_row: dict[str, Any]) -> None:
    other = measured_row["machine"] | {"processor": "Q"}
    page = speed_page([measured_row, measured_row | {"machine": other}])
    first, second = page.index("cpu, P, 2 threads"), page.index("cpu, Q, 2 threads")
    assert page[first:second].count("| step-madry") == 1
    assert page[second:].count("| step-madry") == 1
