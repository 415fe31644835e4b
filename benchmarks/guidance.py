"""Does guidance help: everywhere, within an interval of sigma, or by a worse model?

    python benchmarks/guidance.py

Needs a finished quick run, which is also the worse model of the reference. Writes
outputs/benchmarks/guidance.csv; minutes of one core.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import lensnb
from lensnb import io, pretrained
from lensnb.generator import Generator
from lensnb.runs.run_folder import outputs_folder

IMAGES = 160
MIDDLE = {"guidance_low": 0.2, "guidance_high": 2.0}
LATE = {"guidance_low": 0.05, "guidance_high": 1.0}
PLAIN: dict[str, dict[str, float]] = {
    "none": {},
    "1.5": {"guidance": 1.5},
    "1.5 from 0.2 to 2": {"guidance": 1.5, **MIDDLE},
    "2.5 from 0.2 to 2": {"guidance": 2.5, **MIDDLE},
}
WORSE: dict[str, dict[str, float]] = {
    "1.5 by a worse model": {"guidance": 1.5},
    "1.5 by it from 0.2 to 2": {"guidance": 1.5, **MIDDLE},
    "1.5 by it from 0.05 to 1": {"guidance": 1.5, **LATE},
}


def guided(of: Generator, options: dict[str, float], guide: Any = None) -> Generator:
    """The generator with other guidance."""
    method = of.method.model_copy(update=options)
    return Generator(of.params, method, of.dataset, of.inner.net, of.device, guide)


def sky(images: np.ndarray) -> float:
    """Standard deviation of the pixels in the four corners of images (N, C, H, W)."""
    ends = np.r_[:10, -10:0]
    return float(images[..., ends[:, None], ends].std())


def rows() -> Iterator[dict[str, Any]]:
    """Distance and sky noise for each model and each kind of guidance."""
    real = lensnb.simulate(3 * IMAGES, seed=777)
    quick = pretrained.load("quick", "dpm")
    reference = pretrained.load("reference-cpu", "dpm")
    tried = [("quick", quick, None, PLAIN), ("reference", reference, None, PLAIN)]
    tried += [("reference", reference, quick.inner.net, WORSE)]
    for label, generator, guide, kinds in tried:
        for kind, options in kinds.items():
            made = guided(generator, options, guide)
            images = made.draw(IMAGES, seed=3)
            distance = lensnb.frechet(images, real)
            yield {
                "model": label,
                "guidance": kind,
                "evaluations": made.nfe,
                "frechet": distance.value,
                "error": distance.error,
                "floor": distance.floor,
                "sky": sky(images),
            }


def main() -> None:
    """Write the table."""
    torch.set_num_threads(1)
    folder = outputs_folder() / "benchmarks"
    io.make_folder(folder)
    found = []
    for row in rows():
        found.append(row)
        print(row, flush=True)
    io.write_rows(folder / "guidance.csv", found)


if __name__ == "__main__":
    main()
