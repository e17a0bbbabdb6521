"""What this library does beside others, part by part; train steps and films of one network, and what share of peak."""

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from typing import Any, Literal

import torch
from torch import Tensor

from xraygen.benchmark import distances, ingest
from xraygen.benchmark.contenders import Contender, autocast_to, contenders
from xraygen.benchmark.generation import OUTSIDE, STEPS, generation_tasks, measure_generation
from xraygen.benchmark.parts import PARTS, Part
from xraygen.benchmark.turns import OURS, Times, figures, take_turns
from xraygen.config import ModelConfig, load_config
from xraygen.devices import environment
from xraygen.progress import Report, silent
from xraygen.seeds import torch_generator
from xraygen.training.budget import walk
from xraygen.training.peak import DevicePeak, measure_peak, synchronise

ROUNDS = 9
_TURN_SECONDS = 0.5
_MOST_REPEATS = 20
_MEASURED = (
    "diffusers",
    "imagecodecs",
    "monai",
    "pillow",
    "pylibjpeg",
    "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg",
    "scipy",
    "torchmetrics",
)


@dataclass(frozen=True)
class Case:
    """One network at one batch size.

    Attributes:
        name: For the table.
        model: The network; no dropout, so that all libraries do the same work.
        batch: Images per step; halved until all contenders fit into the GPU's memory.
        precision: float32 (on a GPU with TF32 products, as users run it) or bfloat16 by autocast.
    """

    name: str
    model: ModelConfig
    batch: int
    precision: Literal["float32", "bfloat16"] = "float32"


def cases(device: torch.device, *, quick: bool = False) -> list[Case]:
    """What suits the device: minutes on two CPU cores, minutes on a GPU; seconds with `quick`."""
    cifar10 = load_config("cifar10", ["model.dropout=0"]).model
    narrow = ModelConfig(image_size=128, channels=64, channel_mult=(1, 2, 2, 2), attention_resolutions=(16,))
    if quick:
        small = {"channels": 32, "num_res_blocks": 1}
        return [
            Case("CIFAR10, width 32", cifar10.model_copy(update=small), 2),
            Case("32 px, width 32", narrow.model_copy(update={**small, "image_size": 32}), 1),
        ]
    if device.type == "cpu":
        return [Case("CIFAR10", cifar10, 8), Case("128 px, width 64", narrow, 2)]
    large = load_config("cxr-256", ["model.dropout=0"]).model
    return [
        Case(name, model, batch, precision)
        for name, model, batch in (("CIFAR10", cifar10, 128), ("256 px, width 128", large, 64))
        for precision in ("float32", "bfloat16")
    ]


def benchmark_speed(
    device: torch.device,
    *,
    quick: bool = False,
    rounds: int = ROUNDS,
    parts: Sequence[Part] = PARTS,
    report: Report = silent,
) -> dict[str, Any]:
    """Run all cases of the parts: 20 minutes on two slow CPU cores, a minute or two with `quick`.

    Args:
        device: Where networks are trained and films made; ingest and audit compute on the CPU.
        quick: Small networks, films and sets, for a test of the benchmark itself.
        rounds: Rounds in which the contenders take turns.
        parts: What is timed.
        report: Told after each round.

    Returns:
        JSON-ready: machine, versions, and per part, case and contender the seconds and the ratio of our time to theirs
        with its interval; of the networks, images per second and share of peak too.
    """
    before = os.getloadavg()[0]
    measured: dict[str, Any] = {
        "machine": machine(device),
        "rounds": rounds,
        "quick": quick,
        "parts": list(parts),
        "peak": None,
        "missing": [],
        "cases": [],
    }
    if "train" in parts or "generation" in parts:
        measured |= _networks(cases(device, quick=quick), device, rounds, parts, report)
    if "ingest" in parts:
        films = ingest.QUICK if quick else ingest.IngestCase()
        measured["ingest"] = ingest.benchmark_ingest(films, rounds, report)
    if "audit" in parts:
        sets = distances.QUICK if quick else distances.AuditCase()
        measured["audit"] = distances.benchmark_audit(sets, rounds, report)
    return measured | {"load_average": [before, os.getloadavg()[0]]}


def _networks(
    chosen: Sequence[Case], device: torch.device, rounds: int, parts: Sequence[Part], report: Report
) -> dict[str, Any]:
    """Training and generation, or one of them."""
    missing: dict[str, None] = {}
    if "train" not in parts:
        measured = [_measure(case, device, rounds, parts, missing, report) for case in chosen]
        return {"missing": list(missing), "cases": measured}
    peaks = [measure_peak(device)]
    measured = [_measure(case, device, rounds, parts, missing, report) for case in chosen]
    peaks.append(
        measure_peak(device)
    )  # again: what else ran during one of the two did not during both, perhaps
    peak = DevicePeak(*(max(values) for values in zip(*map(astuple, peaks), strict=True)))
    for case in measured:
        for row in case["step"].values():
            row["share_of_peak"] = case["flops_per_step"] / row["seconds"] / peak.fastest
    return {"peak": asdict(peak), "missing": list(missing), "cases": measured}


def machine(device: torch.device) -> dict[str, Any]:
    """Device, processor, threads and versions, the peers' among them."""
    found = environment(device)
    for name in _MEASURED:
        try:
            found["packages"][name] = version(name)
        except PackageNotFoundError:
            continue
    found["processor"] = _cpu_name()
    if device.type == "cpu":
        found["device"] = found["processor"]
    return found


def _cpu_name() -> str:
    """The processor's name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - no file of anybody's
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or "cpu"


def _measure(
    case: Case,
    device: torch.device,
    rounds: int,
    parts: Sequence[Part],
    missing: dict[str, None],
    report: Report,
) -> dict[str, Any]:
    """One case: whole steps in turns, then optimiser and average alone in turns, then films in turns."""
    compiled = device.type == "cuda" and case.precision == "bfloat16"
    present: list[Contender] = []
    for contender in contenders(case.model, device, compiled=compiled):
        if isinstance(contender, str):
            missing[contender] = None
        else:
            present.append(contender)
    batch, measured = case.batch, dict[str, Any]()
    if "train" in parts:
        with _tf32(device):
            batch, steps = _steps(case, present, device, rounds, report)
        updates = _updates(case, present, device, rounds, report)
        for contender in present:
            contender.optimizer.zero_grad()
        measured["flops_per_step"] = walk(case.model, 1).flops * batch
        measured |= {"step": figures(steps, batch), "optimiser_and_average": figures(updates)}
    if "generation" in parts:
        measured |= _generation(case, batch, present, device, rounds, report)
    return {
        "name": case.name,
        "parameters": sum(weight.numel() for weight in present[0].network.parameters()),
        "batch": batch,
        "precision": case.precision,
        **measured,
    }


def _generation(
    case: Case,
    batch: int,
    present: Sequence[Contender],
    device: torch.device,
    rounds: int,
    report: Report,
) -> dict[str, Any]:
    """Films of one case, and what share of the CPU time is not network."""
    with _tf32(device):
        tasks = generation_tasks(case.model, batch, case.precision, present, device)
        made = measure_generation(tasks, rounds, device, label=f"{case.name}, generation", report=report)
    generation = figures(made, batch)
    outside = generation.pop(OUTSIDE)
    return {
        "generation": generation,
        "generation_steps": STEPS,
        "outside_network": outside["cpu_seconds"] / generation[OURS]["cpu_seconds"],
    }


@contextmanager
def _tf32(device: torch.device) -> Iterator[None]:
    """Float32 products on a GPU in TF32, as users of all three libraries run them."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _steps(
    case: Case, present: Sequence[Contender], device: torch.device, rounds: int, report: Report
) -> tuple[int, dict[str, Times]]:
    """Seconds per train step, at the largest batch up to the case's that fits for everyone."""
    batch = case.batch
    while True:
        try:
            tasks = {
                contender.name: _StepTask(contender, _batch(case.model, batch, device), case.precision)
                for contender in present
            }
            slowest = max(_first_seconds(task, device) for task in tasks.values())
            break
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
            for contender in present:
                contender.optimizer.zero_grad()
            torch.cuda.empty_cache()
    repeats = min(_MOST_REPEATS, max(1, ceil(_TURN_SECONDS / slowest)))
    label = f"{case.name}, {case.precision}"
    return batch, take_turns(tasks, rounds, device, repeats=repeats, label=label, report=report)


@dataclass(frozen=True)
class _StepTask:
    contender: Contender
    batch: tuple[Tensor, Tensor, Tensor]
    precision: str

    def __call__(self) -> None:
        x_t, t, noise = self.batch
        self.contender.step(x_t, t, noise, autocast_to(self.precision, x_t.device))


def _first_seconds(task: _StepTask, device: torch.device) -> float:
    """Of the second run: in the first, memory is taken and kernels are chosen or compiled."""
    task()
    return float(take_turns({"second": task}, 1, device)["second"].wall[0])


def _batch(config: ModelConfig, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy images, timesteps and noise, the same for everyone."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch_generator(0, "benchmark", batch)
    x_t, noise = torch.randn((2, batch, config.in_channels, height, width), generator=generator)
    t = torch.randint(1000, (batch,), generator=generator)
    return x_t.to(device), t.to(device), noise.to(device)


def _updates(
    case: Case, present: Sequence[Contender], device: torch.device, rounds: int, report: Report
) -> dict[str, Times]:
    """Seconds per optimiser step and average, with gradients that stand still."""
    tasks = {contender.name: contender.update for contender in present if "compiled" not in contender.name}
    for contender in present:
        for weight in contender.network.parameters():
            weight.grad = torch.full_like(weight, 1e-3)
        contender.update()
    synchronise(device)
    label = f"{case.name}, optimiser and average"
    return take_turns(tasks, rounds, device, repeats=3, label=label, report=report)
