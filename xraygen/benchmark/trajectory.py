"""What many chains take for their images on the way, as sets that can be scored (Ho et al. 2020, fig. 10)."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xraygen.atomic import atomic_file, remove_leftovers, sole_writer, write_json
from xraygen.devices import choose_device
from xraygen.progress import Progress, Report
from xraygen.synthesis.chains import Chains, progressive_frames
from xraygen.synthesis.noise import NOISE
from xraygen.synthesis.provenance import agreed_provenance, provenance
from xraygen.synthesis.sampling import SamplerSettings, as_stored, sampling_diffusion
from xraygen.training.checkpoint import Choice, chosen_checkpoint, load_run

REVERSE = "reverse_steps"
_ROWS = 10


def rows_of_chain(steps: int) -> dict[int, int]:
    """Reverse steps done, rising to all of them, to the step of the chain whose estimate that is: tenths."""
    done = sorted({max(1, round(steps * row / _ROWS)) for row in range(1, _ROWS + 1)})
    return {count: steps - count for count in done}


def trajectory(
    run: Path,
    checkpoint: Choice,
    folder: Path,
    count: int,
    sampler: SamplerSettings,
    device: str,
    report: Report,
) -> dict[int, NDArray[np.uint8]]:
    """Estimates of `count` chains after each tenth of their steps; what a killed call finished is read.

    Args:
        run: RUN in colour.
        checkpoint: Which checkpoint of it.
        folder: Where finished batches of chains are kept.
        count: Chains: those of seeds 0 ... count - 1.
        sampler: How they run.
        device: Where.
        report: Told how many chains are done.

    Returns:
        Reverse steps done, to images uint8 `[count, H, W, 3]`.
    """
    target = choose_device(device)
    chosen = chosen_checkpoint(run, checkpoint)
    model, diffusion, config = load_run(run, target, chosen)
    chain = sampling_diffusion(diffusion, sampler)
    rows = rows_of_chain(len(chain.schedule.timesteps))
    chains = Chains(model, chain, config.data.shape, sampler, target)
    batch = sampler.compute_batch
    told = {**asdict(sampler), "rows": list(rows), "noise": NOISE}
    with sole_writer(folder):
        origin = agreed_provenance(folder, provenance(run, chosen, told, target))
        write_json(folder / "provenance.json", origin)
        remove_leftovers(folder)
        parts = []
        for first in range(0, count, batch):
            report(Progress("chains", first, count))
            file = folder / f"chains-{first:06d}.npy"
            if not file.is_file():
                # A whole batch always: torch's kernels give other bits at other shapes.
                frames = progressive_frames(chains, range(first, first + batch), list(rows.values()))
                stored = as_stored(frames.flatten(0, 1)).reshape(len(rows), batch, *_last(config.data.shape))
                with atomic_file(file) as aside, aside.open("wb") as stream:
                    np.save(stream, stored)
            parts.append(np.load(file, allow_pickle=False)[:, : count - first])
        report(Progress("chains", count, count))
    whole = np.concatenate(parts, axis=1)  # (rows, count, H, W, 3)
    return dict(zip(rows, whole, strict=True))


def _last(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(C, H, W) to (H, W, C)."""
    return shape[1], shape[2], shape[0]
