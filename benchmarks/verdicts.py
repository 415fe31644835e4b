"""Does a planted fault bring its own sentence first? The whole judge on faults at two strengths.

    python -m benchmarks.verdicts [seed] [fault[=strength[=strength ...]] ...]

Simulates lenses of the broad prior: N as the reference, 4 N as training images, N others that each
fault of tools/planted.py changes. The judge measures everything. For faults of substructure alone
lenses are fitted, and the class that each lens was asked for is known. Prints the sentences of each
verdict. Writes the numbers that the verdict reads to outputs/benchmarks/verdicts-SEED.json; what is
there already is not measured again; nor are the real images, whose rows are kept beside it.
"""

import sys
from typing import Any

import numpy as np
import torch

from lensnb import io
from lensnb.evaluation import compare, strangers
from lensnb.evaluation.judge import Judge, judged
from lensnb.evaluation.kept_rows import Kept
from lensnb.evaluation.real_rows import Asked, Classes
from lensnb.lensing.priors import PRIORS
from lensnb.lensing.simulate import render, simulate
from lensnb.lensing.truth_tables import draw_truth
from tools.planted import PLANTED

N = 500
FITTED = 150
FIT_FOR = ("weak_vortex", "few_subhalos")
BROAD = PRIORS["broad"]
FOLDER = io.home() / "outputs" / "benchmarks"
STRENGTHS: dict[str, tuple[float, ...]] = {
    "none": (0.0,),
    "opening": (0.7, 1.0),
    "equal_angles": (0.7, 1.0),
    "off_centre": (0.5, 1.0),
    "gradient": (0.1, 0.3),
    "sky": (0.03, 0.1),
    "stripes": (0.1, 0.2),
    "noise": (1.05, 1.1),
    "light_detail": (1.5, 2.0),
    "noise_left": (0.0,),
    "checkerboard": (0.05, 0.1),
    "hot_pixel": (2.0, 4.0),
    "elliptical_psf": (0.35, 0.5),
    "mirrored": (0.1, 0.5),
    "class_shares": (0.27, 0.5),
    "ring": (0.05, 0.1),
    "correlated": (0.6, 0.9),
    "weak_vortex": (0.3, 0.1),
    "few_subhalos": (0.3, 0.1),
    "copies": (0.1, 0.5),
    "shifted_copies": (0.2, 0.5),
    "turned_copies": (0.2, 0.5),
    "noisy_copies": (0.2, 0.5),
}


class Asking(Judge):
    """A judge that may be told the classes of generated, reference and other images."""

    told: Classes | None = None

    def classes(self, images: np.ndarray, asked: Asked | None) -> Classes:
        """The classes that were told, or what LensNet reads."""
        return self.told or super().classes(images, asked)


class Bench:
    """Real lenses, laid out as for `lensnb.judge`, and lenses that faults are planted in."""

    def __init__(self, seed: int) -> None:
        images, drawn = simulate(5 * N, "broad", seed=seed)
        real, self.train = images[:N], images[N:]
        self.truth = draw_truth(N, "broad", seed + 1)
        self.fresh = render(self.truth).numpy()
        given = [strangers.Given(n, x, BROAD.pixel_scale) for n, x in self._named(real)]
        settings = {"seed": seed, "device": "cpu", "n": N, "psf_fwhm": BROAD.psf_fwhm}
        settings |= {"fit": FITTED, "bootstrap": 20, "workers": 1}
        self.laid = strangers.lay_out({"made": given[0]}, given[1], given[2], settings)
        known = self.truth["class"], drawn["class"][:N], drawn["class"][N:]
        self.known = tuple(np.asarray(part) for part in known)
        kept = Kept(FOLDER / ".measured")
        self.judge = Asking(self.laid.params, self.laid.dataset, self.laid.chosen, kept)
        self.optics = self.judge.optics

    def _named(self, real: np.ndarray) -> list[tuple[str, np.ndarray]]:
        return [("made", self.fresh), ("real", real), ("train", self.train)]

    def tree(self, name: str, strength: float, seed: int) -> dict[str, Any]:
        """The metrics.json of images with a fault."""
        images = self.fresh
        if name != "none":
            rng = np.random.default_rng([seed, 7])
            images = PLANTED[name](images, strength, rng, self.truth, self.train)
        fitted = name in FIT_FOR
        self.judge.optics = self.optics if fitted else None
        self.judge.told = self.known if fitted else None
        tree, _, _ = judged(self.judge, "made", images, training=self.laid.training)
        return tree


def verdict_of(tree: dict[str, Any]) -> list[str]:
    """The sentences on one set of images."""
    return compare.verdict(compare.table_of({"made": tree["metrics"]}, {}), {"made": tree})


def read_by_verdict(tree: dict[str, Any]) -> dict[str, Any]:
    """The part of a metrics.json that the verdict reads, rounded."""
    metrics = {
        key: {column: found[column] for column in (*compare.KEPT, "parts") if column in found}
        for key, found in tree["metrics"].items()
    }
    return rounded({"metrics": metrics, "memorisation": tree["memorisation"]})


def rounded(tree: Any) -> Any:
    """The tree with five digits of each number."""
    if isinstance(tree, dict):
        return {key: rounded(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [rounded(value) for value in tree]
    return float(f"{tree:.5g}") if isinstance(tree, float) else tree


def main(seed: str = "41", *faults: str) -> None:
    """Measure what is missing, and print the first words of each verdict."""
    torch.set_num_threads(1)
    io.make_folder(FOLDER)
    path = FOLDER / f"verdicts-{seed}.json"
    trees = io.read_json(path) if path.is_file() else {}
    bench = None
    for fault in faults or STRENGTHS:
        name, _, own = fault.partition("=")
        for strength in map(float, own.split("=")) if own else STRENGTHS[name]:
            key = f"{name} {strength:g}"
            if key not in trees:
                bench = bench or Bench(int(seed))
                trees[key] = read_by_verdict(bench.tree(name, strength, int(seed)))
                io.write_json(path, trees)
            first = next((s for s in verdict_of(trees[key]) if s.startswith("What is wrong")), "")
            print(key, "|", first.partition(": ")[2], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
