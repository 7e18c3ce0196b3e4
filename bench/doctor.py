"""The page of `bench doctor`: the machine, its software, what is missing, and its speed."""

import platform
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from textwrap import indent

import psutil
import torch
from torch.utils import collect_env

from bench.archs import list_archs
from bench.data import Dataset
from bench.data.folder import IMAGE_SIZE
from bench.errors import ConfigError
from bench.estimate import Estimator, cost_of, made_spec
from bench.experiments.plan import RunPlan, make_plans
from bench.experiments.stand_in import stand_in
from bench.experiments.study import Study
from bench.experiments.suite import Suite
from bench.listing import aligned
from bench.machine import bf16_flags, describe_machine, has_fast_bf16
from bench.precision import automatic, evidence
from bench.progress import Reporter, duration
from bench.records.spec import TrainSpec
from bench.registry import get_method

GIB = 2**30
PACKAGE = "atbench"
TOGETHER = "pip install --force-reinstall torch torchvision"
NVIDIA = Path("/proc/driver/nvidia/version")
"""Exists where NVIDIA's driver is loaded."""
CIFAR_10 = "cifar-10-batches-py"
METHOD = "madry"
"""The method whose training speed is shown."""


def diagnosis(
    device: torch.device, seconds: float, data_root: Path, suite: Suite | None, reporter: Reporter
) -> str:
    """Return the page; speeds are measured for about `seconds`, those of the suite first."""
    lacking = missing(data_root)
    sections = [
        ("This machine", aligned(hardware(device))),
        ("Software", aligned(software())),
        ("Missing", "\n".join(f"{what}\n  -> {fix}" for what, fix in lacking) or "nothing"),
    ]
    specs = sorted((_spec(arch) for arch in list_archs()), key=lambda spec: cost_of(spec).flops)
    # the clock starts here, since the sections above take a while
    estimator = Estimator(device, deadline=time.monotonic() + seconds)
    expected = _suite(suite, data_root, estimator) if suite else []
    sections.append((f"Training speed on {device}", _speeds(specs, estimator, reporter)))
    sections += expected
    return "\n\n".join(f"{title}\n{indent(text, '  ')}" for title, text in sections)


def describe_cluster(cluster: str) -> str:
    """Return the page of a cluster: a line per node, and what a job costs there.

    Raises ConfigError if there is none.
    """
    if cluster == "slurm":
        if shutil.which("sinfo") is None:
            raise ConfigError("--cluster slurm: there is no sinfo here; run it on a login node")
        asked = ["sinfo", "--format=%P %D nodes %G, %c CPUs each, jobs up to %l"]
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
        return f"Partitions of Slurm\n{indent((found.stdout or found.stderr).strip(), '  ')}"
    from bench.jobs.ray_cluster import connected, own_versions

    with connected(cluster) as nodes:
        rows = [("node", "CPUs", "GPUs", "software")]
        for node in nodes.answered():
            gpus = f"{node.gpus} {node.kind}".strip()
            here = "" if node.versions == own_versions() else " (gets no jobs: other than here)"
            rows.append((node.host, str(node.cpus), gpus, f"{node.versions}{here}"))
        seconds = nodes.time_of_empty_job()
    return (
        f"Cluster {cluster}\n{indent(aligned(rows), '  ')}\n"
        f"  An empty job takes {1000 * seconds:.0f} ms. This command sends no usage statistics; "
        "what the cluster itself sends is set where it is started (ray start "
        "--disable-usage-stats)."
    )


def hardware(device: torch.device) -> list[tuple[str, str]]:
    """Return (what, value) of processor, memory and GPUs."""
    memory = psutil.virtual_memory()
    usable = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else 0
    cores = f"{usable or psutil.cpu_count()} of {psutil.cpu_count()} for this process"
    rows = [
        ("system", f"{platform.system()} {platform.machine()}"),
        ("processor", str(describe_machine(device)["processor"]) or "unknown"),
        ("cores", f"{cores}; torch uses {torch.get_num_threads()} threads"),
        ("memory", f"{memory.total / GIB:.1f} GiB, {memory.available / GIB:.1f} GiB available"),
        ("bf16, processor", ", ".join(bf16_flags()) or "not in hardware"),
    ]
    for i in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(i)
        bf16 = "bf16" if has_fast_bf16(torch.device("cuda", i)) else "no bf16"
        text = f"{found.name}, {found.total_memory / GIB:.1f} GiB, {bf16} in hardware"
        rows.append((f"GPU {i}", text))
    return rows if torch.cuda.is_available() else [*rows, ("GPU", "none that torch can use")]


def software() -> list[tuple[str, str]]:
    """Return (package, version and build)."""
    found = collect_env.get_nvidia_driver_version  # None without nvidia-smi
    driver = found(collect_env.run) if NVIDIA.exists() else None  # type: ignore[no-untyped-call]
    kind = f"CUDA {torch.version.cuda} build" if torch.version.cuda else "CPU build"
    return [
        ("Python", platform.python_version()),
        (PACKAGE, _version(PACKAGE) or "not installed"),
        ("torch", f"{torch.__version__}, {kind}"),
        ("torchvision", _torchvision()[0]),
        *([("NVIDIA driver", str(driver))] if driver else []),
    ]


def missing(data_root: Path) -> list[tuple[str, str]]:
    """Return (what is missing or wrong, what to do about it)."""
    found = [(what, f"run: {TOGETHER}") for what in _torchvision()[1:]]
    found += [*_gpu_build(), *_extras()]
    if not (data_root.expanduser() / CIFAR_10).is_dir():
        fix = "bench run downloads it; or name its folder by --data-root, or use --dataset npz:PATH"
        found.append((f"CIFAR-10: no folder {data_root / CIFAR_10}", fix))
    return found


def _torchvision() -> tuple[str, ...]:
    """Version and build, then what is wrong with it."""
    try:
        import torchvision
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)  # its compiled part is loaded at the first call
    except (ImportError, RuntimeError, OSError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        return _version("torchvision") or "not installed", f"torchvision does not work: {reason}"
    ours, theirs = (
        text.partition("+")[2] or "an unnamed platform"  # `cu130` of `2.14.1+cu130`
        for text in (torch.__version__, torchvision.__version__)
    )
    if ours == theirs:
        return (f"{torchvision.__version__}: matches torch",)
    return torchvision.__version__, f"torch is built for {ours} and torchvision for {theirs}"


def _gpu_build() -> list[tuple[str, str]]:
    if torch.cuda.is_available():
        return []
    if torch.version.cuda is None:
        what = "an NVIDIA driver is loaded and torch is a CPU build"
        fix = "install the CUDA build of torch and torchvision"
        return [(what, fix)] if NVIDIA.exists() else []
    if NVIDIA.exists():
        what = f"torch is a CUDA {torch.version.cuda} build and cannot use the GPU"
        return [(what, "compare that version with what nvidia-smi shows; update the driver")]
    return [("torch is a CUDA build and there is no GPU", "ignore this if no GPU is expected")]


def _extras() -> list[tuple[str, str]]:
    """Extras of this package whose requirements are not all installed."""
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:
        return []
    lacking: dict[str, list[str]] = {}
    for line in lines:
        extra = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", line)
        name = re.match(r"[A-Za-z0-9._-]+", line)
        if extra and name and not _version(name[0]):
            lacking.setdefault(extra[1], []).append(name[0])
    return [
        (f"extra '{extra}': {', '.join(names)}", f"run: pip install '{PACKAGE}[{extra}]'")
        for extra, names in lacking.items()
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _speeds(specs: Sequence[TrainSpec], estimator: Estimator, reporter: Reporter) -> str:
    method = get_method(METHOD)
    rows = [("network", "images", "images per second")]
    with reporter.task("measuring this machine", len(specs)) as task:
        for spec in specs:
            task.advance(0, detail=spec.arch)
            found = estimator.per_image(spec, method)
            speed = f"{1 / found.train_step:.3g}" if found else "-"
            rows.append((spec.arch, f"{spec.image_size}x{spec.image_size}", speed))
            task.advance()
    return (
        f"{aligned(rows)}\nTraining steps of {method.title} in fp32, measured now.\n"
        "-: no time was left (--seconds)."
    )


def _spec(arch: str) -> TrainSpec:
    size = IMAGE_SIZE if arch == "resnet-50" else 32
    return made_spec(METHOD, arch, 128, image_size=size)


def _suite(suite: Suite, data_root: Path, estimator: Estimator) -> list[tuple[str, str]]:
    precision, _ = automatic(has_fast_bf16(estimator.device), evidence())  # as `bench run` takes it
    jobs = jobs_of(suite, str(data_root), precision)
    n_attacks = sum(len(job.evaluations) for job in jobs)
    text = (
        f"{len(jobs)} trainings in {precision}, {n_attacks} attacks on their checkpoints\n"
        f"{suite_time(jobs, estimator)}\n"
        "Attacks are counted as if every image survived; masking checks and measures come on top."
    )
    return [(f"Suite {suite.name}, size {suite.size}", text)]


def suite_time(jobs: Sequence[RunPlan], estimator: Estimator) -> str:
    """Return the estimated time of a whole suite on this machine."""
    training = attacks = 0.0
    unknown: dict[str, None] = {}
    for job in jobs:
        assert job.method is not None
        found = estimator.per_image(job.train_spec, job.method)
        if found is None:
            unknown[job.train_spec.arch] = None
            continue
        training += found.training(job.train_spec)
        attacks += sum(found.attack(spec) for spec in job.evaluations)
    left_out = f"not measured: no time was left for {', '.join(unknown)} (--seconds)"
    if not training:
        return left_out
    parts = f"{duration(training)} training, {duration(attacks)} attacks"
    total = f"about {duration(training + attacks)} here ({parts})"
    return f"{total}; {left_out}" if unknown else total


def jobs_of(suite: Suite, data_root: str | None, precision: str = "fp32") -> tuple[RunPlan, ...]:
    """Return every training of a suite once, with its attacks; the data may be missing."""

    def load(study: Study) -> Dataset:
        return stand_in(study.dataset, data_root, study.train_size, study.test_size)

    studies = [replace(study, precision=precision) for study in suite.studies]
    return tuple(run for plan in make_plans(suite.title, studies, load) for run in plan.runs)
