"""The documentation site: built strictly, complete, and true: its commands and code are run.

Each tutorial and how-to page is followed in a copy of the checkout. Trainings are short (SHORT),
and what needs a download, a GPU or minutes runs as STAND_INS says.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torchvision.models import resnet18

from bench.attacks import list_attacks
from bench.cli import COMMANDS
from bench.evaluation.checks import CHECKS
from bench.experiments.suite import list_suites

pytestmark = pytest.mark.site

ROOT = Path(__file__).parent.parent
GUIDES = sorted([*ROOT.glob("docs/tutorial/*.md"), *ROOT.glob("docs/how-to/*.md")])
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
SHORT = "--train-size 200 --test-size 16 --epochs 1"
"""Goes before a training's own options, which win."""
IMAGES = "--dataset npz:images.npz --arch cnn --attacks clean,pgd-20"
"""Ten grey images of 32x32 pixels, for CIFAR-10."""
STAND_INS = {
    "bench doctor": "bench doctor --seconds 0",
    # minutes: nine trainings, each with fourteen checks
    "bench run --methods ./mine.py --against madry,trades --seeds 0,1,2": (
        "bench run --methods ./mine.py --against madry,trades --seeds 0,1 --attacks clean,pgd-20"
    ),
    "bench run --methods ./mine.py --against madry --seeds 0,1,2 "
    "--attacks clean,pgd-20,cw,autoattack --workers 2": (
        "bench run --methods ./mine.py --against madry --seeds 0,1 --attacks clean,cw --workers 2"
    ),
    "bench run --suite mytable --size tiny": "bench run --suite mytable --size tiny --seeds 0",
    # a download
    "bench run --methods cat-ce,trades --arch wrn --dry-run": (
        f"bench run --methods cat-ce,trades {IMAGES} --dry-run"
    ),
    "bench run --methods cat-ce,trades --arch wrn": f"bench run --methods cat-ce,trades {IMAGES}",
    # weights of the zoo are a download, so an untrained network takes their place
    "bench evaluate --model robustbench:Wong2020Fast --dataset cifar10": (
        "bench evaluate --model torchvision:resnet18 --weights mine.pt --dataset npz:images.npz"
        " --attacks clean --test-size 16"
    ),
    "bench evaluate --model torchvision:resnet18 --weights mine.pt --dataset cifar10 "
    "--mean 0.4914,0.4822,0.4465 --std 0.2471,0.2435,0.2616": (
        "bench evaluate --model torchvision:resnet18 --weights mine.pt --dataset npz:images.npz"
        " --mean 0.4914,0.4822,0.4465 --std 0.2471,0.2435,0.2616 --attacks clean --test-size 16"
    ),
    # of the workflow: installed already; minutes
    "pip install . --extra-index-url https://download.pytorch.org/whl/cpu": "true",
    "bench verify": "bench verify --only trades,cw",
}


class Block(NamedTuple):
    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in BLOCK.findall(page.read_text())]


def commands(text: str) -> list[str]:
    """The commands of a block, each on one line, without comments."""
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [line for line in (re.sub(r"\s*#.*", "", line).strip() for line in lines) if line]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout, with the files that a reader has by then."""
    kept = ("bench", "methods", "docs", "results", "pyproject.toml")
    for path in (ROOT / name for name in kept):
        if path.is_dir():
            shutil.copytree(path, tmp_path / path.name)
        else:
            shutil.copy(path, tmp_path)
    mine = next(b for b in blocks(ROOT / "docs/tutorial/your-method.md") if b.title == "mine.py")
    (tmp_path / "mine.py").write_text(mine.text)
    labels = np.arange(200) % 10
    grey = np.broadcast_to((25 * labels).astype(np.uint8)[:, None, None, None], (200, 32, 32, 3))
    np.savez(tmp_path / "images.npz", x_train=grey, y_train=labels, x_test=grey, y_test=labels)
    torch.save(resnet18(num_classes=10).state_dict(), tmp_path / "mine.pt")
    return tmp_path


def run(command: str, checkout: Path) -> str:
    """Run a command in the checkout, with its code; return what it printed."""
    shown = STAND_INS.get(command, command)
    if "--dry-run" not in shown:
        shown = re.sub(r"^bench run\b", f"bench run {SHORT}", shown)
    shown = re.sub(r"^bench\b", "python -m bench", shown)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "PYTHONPATH": str(checkout), "MPLBACKEND": "agg"}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shown],
        cwd=checkout, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_a_reader_can_follow_a_guide(page: Path, checkout: Path) -> None:
    code, printed = "", ""
    for block in blocks(page):
        if block.language == "bash":
            printed = "".join(run(command, checkout) for command in commands(block.text))
        elif block.language == "text":
            assert " ".join(block.text.split()) in " ".join(printed.split())
        elif block.title and block.language in ("python", "toml"):
            (checkout / block.title).parent.mkdir(parents=True, exist_ok=True)
            (checkout / block.title).write_text(block.text)
        elif block.language == "python":
            code += block.text  # a block may use what an earlier one made
            (checkout / "block.py").write_text(code)
            run("python block.py", checkout)
        elif block.language == "toml":
            assert tomllib.loads(block.text)
        else:
            assert block.language == "yaml"
    if page.stem == "ci":
        steps = workflow_commands(checkout / "docs/how-to/reproducibility.yml")
        assert len(steps) == 5
        for step in steps:
            run(step, checkout)


def workflow_commands(path: Path) -> list[str]:
    import yaml

    (job,) = yaml.safe_load(path.read_text())["jobs"].values()
    return [" ".join(step["run"].split()) for step in job["steps"] if "run" in step]


def test_every_stand_in_stands_for_a_command_of_a_page() -> None:
    shown = [c for page in GUIDES for b in blocks(page) if b.language == "bash"
             for c in commands(b.text)]  # fmt: skip
    shown += workflow_commands(ROOT / "docs/how-to/reproducibility.yml")
    assert set(STAND_INS) <= set(shown)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Loaded(HTMLParser):
    """Addresses that a browser loads with a page; links that a reader may click are none."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"a": (), "link": ("href",)}.get(tag, ("src", "srcset", "data", "poster"))
        self.found += [value or "" for name, value in attrs if name in names]


def pages(site: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(site.rglob("*.html")):
        yield path, path.read_text()


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    loaded = {address for _, text in pages(site) for address in Loaded(text).found}
    assert len(loaded) > 20
    assert [address for address in loaded if re.match(r"(\w+:)?//", address)] == []
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import\s*)[\"']?(https?:)?//", path.read_text())


def test_the_reference_is_complete(site: Path) -> None:
    def page(name: str) -> str:
        return (site / f"reference/{name}.html").read_text()

    for command in COMMANDS:
        assert f'id="bench-{command.name}"' in page("commands").replace("bench_", "bench-")
        for option in (o for p in command.params for o in p.opts if o.startswith("--")):
            assert option in page("commands")
    methods = {p.stem.removeprefix("method-") for p in ROOT.glob("results/pinned/method-*.json")}
    assert {p.stem for p in site.glob("reference/methods/*.html")} == {*methods, "index"}
    assert all(f"<code>{name}</code>" in page("attacks") for name in list_attacks())
    assert all(f"<td>{number}</td>" in page("checks") for number in CHECKS)
    assert all(f'id="{name}"' in page("suites") for name, _ in list_suites())
    for name in ("evaluate.evaluate", "Evaluation.survivors"):
        assert f'id="bench.evaluation.{name}"' in page("python")


def test_every_picture_and_link_of_the_site_leads_somewhere(site: Path) -> None:
    for path, text in pages(site):
        if path.name == "404.html":
            continue
        for address in re.findall(r'(?:src|href)="([^"#:?]+)[^":]*"', text):
            assert (path.parent / address).exists(), f"{path.relative_to(site)}: {address}"
