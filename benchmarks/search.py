"""Which knobs of a denoiser help at equal cost: many small trainings side by side on one GPU.

    python benchmarks/search.py first            # one knob at a time
    python benchmarks/search.py second           # what helped, together
    python benchmarks/search.py third            # the border and the highest noise levels
    python benchmarks/search.py gan              # the GAN's knobs, one training after the other
    python benchmarks/search.py --shipped gpu    # the weights that ship under a name

On a GPU each training step is one CUDA graph, and all trainings take turns; on a CPU they run one
step after the other, which only --small makes bearable. outputs/benchmarks/search-<round>.csv has
one row for each training, average and way to draw; docs/search.md and docs/generators.md show some
of them. Those of the first two rounds were drawn in 15 steps down to sigma 0.03, from noise.
"""

import argparse
import copy
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lensnb
from lensnb import denoiser, generator, io, metrics, pipeline, schedule
from lensnb.datasets.dataset import Dataset, load_dataset, prepare_dataset
from lensnb.evaluation import image_stats, lensnet
from lensnb.recipes.recipe import validate
from lensnb.recipes.schema import Method
from lensnb.training import loader, loop, optimise
from lensnb.training.accelerator import make_accelerator
from lensnb.training.muon import matrices, orthonormal

SHARES = (0.015, 0.03, 0.06)  # of the steps that the kept weights are an average over
KARRAS = {"spacing": "karras", "sigma_min": 0.014, "sigma_max": 80.0}
WAYS: dict[str, dict[str, Any]] = {
    "dpm 18": {"sampler": "dpmpp_2m", "steps": 18, "start": "mean"} | KARRAS,
    "dpm 18 from noise": {"sampler": "dpmpp_2m", "steps": 18} | KARRAS,
    "ddim 50": {"sampler": "ddim", "steps": 50, "start": "mean"} | KARRAS,
}
MAIN, KEPT = "dpm 18", 0.03  # all averages are drawn from in the one way, one of them in all ways
NOISES = (0.1, 0.2, 0.5, 1.0, 2.0)  # at which the error of x0 is measured
START = {"model.fine": 16, "model.grid": "polar", "model.border": "zeros"} | {
    "diffusion.schedule": "edm",
    "diffusion.edm_mean": -0.6,
    "diffusion.edm_std": 1.3,
    "diffusion.weighting": "edm",
}
MUON = {"train.optimiser": "muon"}
COSINE = {"diffusion.schedule": "cosine", "diffusion.weighting": "min_snr"}
FINER = {
    "model.patch": 2,
    "model.width": 32,
    "model.multipliers": [1, 2, 2],
    "model.attention": [2],
}
QUICK = MUON | COSINE | FINER | {"model.border": "zeros"}
MIRROR = QUICK | {"model.border": "reflect"}  # the default of version 0.3
EDM = MUON | FINER | {"model.border": "reflect"}  # with log-normal levels and their weights


def levels(mean: float, std: float) -> dict[str, float]:
    """Log-normal levels of training."""
    return {"diffusion.edm_mean": mean, "diffusion.edm_std": std}


Changes = dict[str, Any]
ROUNDS: dict[str, dict[str, Changes]] = {
    "first": {
        "start": {},
        "another seed": {"seed": 1},
        "not polar": {"model.grid": "cartesian"},
        "neither": {"model.grid": "cartesian", "model.fine": 0},
        "min_snr": {"diffusion.weighting": "min_snr"},
        "cosine min_snr": COSINE,
        "levels -0.3 1.0": levels(-0.3, 1.0),
        "levels -0.9 1.0": levels(-0.9, 1.0),
        "levels -0.9 1.3": levels(-0.9, 1.3),
        "levels -0.5 1.7": levels(-0.5, 1.7),
        "rate 2e-3": {"train.rate": 2e-3},
        "rate 4e-3": {"train.rate": 4e-3},
        "muon 0.005": MUON,
        "muon 0.02": MUON | {"train.muon_rate": 0.02},
        "muon 0.005 batch 32": MUON | {"train.batch": 32, "part": 0.5},
        "batch 8": {"train.batch": 8, "part": 2},
        "patch 2": FINER,
        "width 48": {"model.width": 48},
        "width 48 [1, 2, 3]": {"model.width": 48, "model.multipliers": [1, 2, 3]},
        "width 96": {"model.width": 96},
        "fine 32": {"model.fine": 32},
        "blocks 2": {"model.blocks": 2},
        "attention 0, 1": {"model.attention": [0, 1]},
        "no context dropped": {"train.drop_context": 0.0},
        "cooldown 0.8": {"train.cooldown": 0.8},
        "start x3": {"part": 3},
        "muon 0.005 x3": MUON | {"part": 3},
        "width 96 x3": {"model.width": 96, "part": 3},
    },
    "second": {
        "cosine": MUON | COSINE,
        "muon 0.002": MUON | {"train.muon_rate": 0.002},
        "muon 0.01": MUON | {"train.muon_rate": 0.01},
        "min_snr": MUON | {"diffusion.weighting": "min_snr"},
        "cosine muon 0.002": MUON | COSINE | {"train.muon_rate": 0.002},
        "cosine no context dropped": MUON | COSINE | {"train.drop_context": 0.0},
        "cosine patch 2": MUON | COSINE | FINER,
        "patch 2": MUON | FINER,
        "patch 2 width 48": MUON | FINER | {"model.width": 48},
        "cosine width 48": MUON | COSINE | {"model.width": 48},
        "cosine fine 8": MUON | COSINE | {"model.fine": 8},
        "cosine cooldown 1": MUON | COSINE | {"train.cooldown": 1.0},
        "levels -0.3 1.6": MUON | levels(-0.3, 1.6),
        "patch 2 not polar": MUON | FINER | {"model.grid": "cartesian"},
        "cosine not polar": MUON | COSINE | {"model.grid": "cartesian"},
        "cosine x2": MUON | COSINE | {"part": 2},
        "muon x2": MUON | {"part": 2},
        "patch 2 x2": MUON | FINER | {"part": 2},
    },
    "third": {
        "quick": QUICK,
        "quick, another seed": QUICK | {"seed": 1},
        "reflect": MIRROR,
        "reflect, another seed": MIRROR | {"seed": 1},
        "clamped_snr": MIRROR | {"diffusion.weighting": "clamped_snr"},
        "cosine edm": MIRROR | {"diffusion.weighting": "edm"},
        "levels -0.6 1.3": EDM,
        "levels -0.6 1.3, high": EDM | {"high": 0.1},
        "levels -0.6 1.3, high, another seed": EDM | {"high": 0.1, "seed": 1},
        "levels -0.3 1.6": EDM | levels(-0.3, 1.6),
        "levels -0.6 1.3 clamped_snr, high": EDM
        | {"high": 0.1, "diffusion.weighting": "clamped_snr"},
        "muon 0.01": MIRROR | {"train.muon_rate": 0.01},
        "rate 3e-3": MIRROR | {"train.rate": 3e-3},
        "class alone": MIRROR | {"model.context": "class"},
        "no context dropped": MIRROR | {"train.drop_context": 0.0},
        "cooldown 0.8": MIRROR | {"train.cooldown": 0.8},
        "fine 32": MIRROR | {"model.fine": 32},
        "attention 1, 2": MIRROR | {"model.attention": [1, 2]},
        "width 48": MIRROR | {"model.width": 48},
        "batch 32": MIRROR | {"train.batch": 32},
        "batch 8 x2": MIRROR | {"train.batch": 8, "part": 2},
    },
}


GANS: dict[str, Changes] = {  # changes of the quick recipe
    "quick": {},
    "another seed": {"seed": 1},
    "hinge": {"gan.loss": "hinge"},
    "statistics": {"gan.statistics": True},
    "mapping 4, latent 128": {"gan.mapping": 4, "gan.latent": 128},
    "width 48": {"gan.width": 48},
    "rate 1e-3": {"gan.rate": 1e-3},
    "penalty 0.1 to 0.01": {"gan.penalty": 0.1, "gan.penalty_end": 0.01},
    "batch 32": {"gan.batch": 32},
}


def recipe(changes: Changes, steps: int) -> Any:
    """The recipe of a training of `part` times so many steps."""
    tree: dict[str, Any] = {"sample": {"precision": "fp32", "compile": False}}
    steps = max(2, int(steps * changes.get("part", 1)))
    for key, value in (START | {"train.steps": steps} | changes).items():
        if key not in ("part", "high"):
            set_key(tree, key, value)
    return validate(tree, "search")


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in a tree."""
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[last] = value


class Training:
    """One denoiser in training: a step has no number that the processor must know."""

    def __init__(self, name: str, changes: Changes, steps: int, dataset: Dataset, x: Any) -> None:
        self.name, self.x = name, x
        self.recipe = recipe(changes, steps)
        self.settings = self.recipe.train
        device = x.device
        torch.manual_seed(self.recipe.seed)
        net = generator.untrained_denoiser(self.recipe, dataset)
        self.model = optimise.on_device(net, device)
        self.weights = list(self.model.parameters())
        told = pipeline.contexts_of(self.recipe, dataset)
        self.context = told[dataset.train].to(device)
        self.generator = torch.Generator(device).manual_seed(self.recipe.seed + 7)
        self.rate, self.loss = torch.zeros((), device=device), torch.zeros((), device=device)
        self.muon = matrices(self.model) if self.settings.optimiser == "muon" else []
        self.momenta = [torch.zeros_like(p) for p in self.muon]
        taken = set(map(id, self.muon))
        self.adam = torch.optim.AdamW(
            [p for p in self.weights if id(p) not in taken],
            self.rate * 1.0,
            (0.9, 0.99),
            weight_decay=self.settings.decay,
            fused=True,
            capturable=x.is_cuda,
        )
        self.averages = [copy.deepcopy(self.model) for _ in SHARES]
        self.approach = [torch.zeros((), device=device) for _ in SHARES]
        drawn = schedule.from_params(self.recipe.diffusion).train_sigmas(
            4096, torch.Generator().manual_seed(0)
        )
        self.levels = torch.as_tensor(drawn).float().to(device)
        high = int(4096 * changes.get("high", 0))  # a share of high levels, even in log(sigma)
        self.levels[:high] = torch.logspace(math.log10(5), math.log10(80), high).to(device)
        self.done = 0
        self.graph: Any = None
        self.stream = torch.cuda.Stream() if x.is_cuda else None

    def update(self) -> None:
        """What one step computes."""
        settings, generator, device = self.settings, self.generator, self.x.device
        rows = torch.randint(len(self.x), (settings.batch,), generator=generator, device=device)
        x0, context = self.x[rows], self.context[rows]
        coins = torch.rand(settings.batch, 3, 1, 1, 1, generator=generator, device=device) < 0.5
        x0 = torch.where(coins[:, 0], x0.flip(-1), x0)
        x0 = torch.where(coins[:, 1], x0.flip(-2), x0)
        x0 = torch.where(coins[:, 2], x0.transpose(-1, -2), x0)
        sigma = self.levels[
            torch.randint(4096, (settings.batch,), generator=generator, device=device)
        ]
        noise = torch.randn(x0.shape, generator=generator, device=device)
        u = torch.rand(settings.batch, 1, generator=generator, device=device)
        context = context.masked_fill(u < settings.drop_context, math.nan)
        weight = self.model.weight(sigma, self.recipe.diffusion.weighting)
        loss = denoiser.loss(self.model, x0, sigma, noise, weight, context)
        for p in self.weights:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        torch._foreach_zero_([p.grad for p in self.weights])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, settings.clip, foreach=True)
        self.adam.step()
        self._step_of_muon()
        self._average(loss)

    @torch.no_grad()
    def _step_of_muon(self) -> None:
        """As training/muon.py, with a rate that a graph can read."""
        full = self.settings.muon_rate / self.settings.rate
        for p, momentum in zip(self.muon, self.momenta, strict=True):
            momentum.lerp_(p.grad, 0.05)
            matrix = p.grad.lerp(momentum, 0.95).reshape(len(p), -1)
            scale = full * max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
            p.sub_(orthonormal(matrix).reshape(p.shape) * (self.rate * scale))

    @torch.no_grad()
    def _average(self, loss: torch.Tensor) -> None:
        for average, approach in zip(self.averages, self.approach, strict=True):
            kept = list(average.parameters())
            change = torch._foreach_sub(self.weights, kept)
            torch._foreach_mul_(change, approach)
            torch._foreach_add_(kept, change)
        self.loss.lerp_(loss.detach(), 0.01)

    def prepare(self) -> None:
        """Set the rate and the averages of this step."""
        self.rate.fill_(self.settings.rate * optimise.rate_factor(self.done, self.settings))
        self.adam.param_groups[0]["lr"].copy_(self.rate)
        for approach, share in zip(self.approach, SHARES, strict=True):
            approach.fill_(1 / (1 + share * self.done) if self.done else 1.0)

    def step(self) -> None:
        """One step, from its graph if there is one."""
        with torch.cuda.stream(self.stream):
            self.prepare()
            self.graph.replay() if self.graph else self.update()
        self.done += 1

    def capture(self) -> None:
        """Make three steps, then the graph of one."""
        if self.stream is None:
            return
        for _ in range(3):
            self.step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            self.update()
        self.graph = graph


def lenses(n: int) -> Dataset:
    """n simulated lenses of the broad prior, a fifth of them held out."""
    data = validate({"data": {"n": n, "holdout": 0.2}}, "search").data
    with tempfile.TemporaryDirectory() as folder:
        prepare_dataset(data, 4321, Path(folder) / "data")
        dataset = load_dataset(Path(folder) / "data")
        dataset.images = np.array(dataset.images)
    return dataset


def gan_rows(steps: int, images: int, only: int | None, n: int) -> Iterator[dict[str, Any]]:
    """One row for each GAN: trained for so many steps, its last average drawn from."""
    dataset = lenses(images)
    held = np.sort(dataset.heldout)
    against = Against(dataset.images[held[: 6 * n]], n)
    for name, changes in list(GANS.items())[:only]:
        tree: dict[str, Any] = {}
        for key, value in ({"gan.steps": steps, "gan.hold": "device"} | changes).items():
            set_key(tree, key, value)
        params = validate(tree, "search")
        on = make_accelerator(params.device, params.gan.precision)
        task = loop.task("gan", params, dataset, on)
        told = pipeline.contexts_of(params, dataset)
        batches = loader.batches_of(dataset, told, params.gan, params.seed, on.device)
        for k in range(steps):
            loop.one_step(task, batches, k, params.seed, on.device)
        net = task.model.module.eval()
        method = Method.model_validate({"model": "gan"})
        drawer = generator.Generator(params, method, dataset, net, on.device)
        asked = drawer.asked(n, 0) or {}
        found = against.row(drawer.draw(n, 0), np.asarray(asked["class"]).astype(int))
        yield {"name": name, "steps": steps} | found


def train(name: str, steps: int, n: int, only: int | None) -> tuple[list[Training], Dataset]:
    """All trainings of a round, done, and the images that they learned from."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = lenses(n)
    x = dataset.scaling.forward(torch.from_numpy(dataset.images[dataset.train])).to(device)
    wanted = list(ROUNDS[name].items())[:only]
    trainings = [Training(label, changes, steps, dataset, x) for label, changes in wanted]
    for training in trainings:
        training.capture()
    start = time.perf_counter()
    while waiting := [some for some in trainings if some.done < some.settings.steps]:
        for training in waiting:
            training.step()
        if device.type == "cuda" and waiting[0].done % 20 == 0:
            torch.cuda.synchronize()
    print(f"{len(trainings)} trainings in {time.perf_counter() - start:.0f} s", flush=True)
    return trainings, dataset


class Against:
    """Distances of drawn images from real ones (n, 1, H, W), and from their floor."""

    def __init__(self, real: np.ndarray, n: int) -> None:
        self.real, self.n = real, n
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.reader = lensnet.Reader(lensnet.Units(real), lensnet.load(device))
        features = self.reader.features(real)
        std = features.std(axis=0)
        self.alive = std > 1e-3 * std.max()
        self.std = std[self.alive]
        self.features = features[:, self.alive] / self.std
        rng = np.random.default_rng(0)
        halves = (rng.permutation(len(real))[: 2 * n] for _ in range(8))
        floors = [metrics.frechet(*np.split(self.features[rows], 2)) for rows in halves]
        self.floor, self.floor_error = np.mean(floors), np.std(floors)

    def row(self, made: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
        """Distances of images (n, 1, H, W) that were asked to be of these classes (n,)."""
        features = self.reader.features(made)[:, self.alive] / self.std
        some, real = made[:400], self.real[:400]
        power = image_stats.log_power(some).mean(0) - image_stats.log_power(real).mean(0)
        return {
            "frechet": metrics.frechet(features, self.features[: self.n]),
            "floor": self.floor,
            "floor_error": self.floor_error,
            "obeyed": np.mean(self.reader.readings(made)["class"] == classes),
            "spectrum": np.sqrt(np.mean(power**2)),
            "noise": image_stats.noise_level(some).mean() / image_stats.noise_level(real).mean(),
            "flux": ratio_of_means(image_stats.total_flux(made), image_stats.total_flux(self.real)),
            "corner": corner(made, self.real),
        }


def corner(made: np.ndarray, real: np.ndarray) -> float:
    """How many standard errors the four corner pixels of images are brighter than real ones."""
    a, b = (x[:, 0, ::63, ::63].mean((1, 2)) for x in (made, real))
    return float((a.mean() - b.mean()) / np.hypot(a.std() / len(a) ** 0.5, b.std() / len(b) ** 0.5))


def ratio_of_means(a: np.ndarray, b: np.ndarray) -> float:
    """The mean of a over that of b."""
    return float(a.mean() / b.mean())


def rows(trainings: list[Training], dataset: Dataset, n: int) -> Iterator[dict[str, Any]]:
    """One row for each training, average and way to draw; all ways for one of the averages."""
    held = np.sort(dataset.heldout)
    against = Against(dataset.images[held[: 6 * n]], n)
    for training in trainings:
        told = pipeline.contexts_of(training.recipe, dataset)[torch.from_numpy(held[:256])]
        for share, average in zip(SHARES, training.averages, strict=True):
            model = average.eval()
            errors = errors_of_x0(model, dataset, held[:256], told)
            for way, given in WAYS.items():
                if share != KEPT and way != MAIN:
                    continue
                method = Method.model_validate(given)
                drawer = generator.Generator(
                    training.recipe, method, dataset, model, training.x.device
                )
                asked = drawer.asked(n, 77) or {}
                found = against.row(drawer.draw(n, 77), np.asarray(asked["class"]).astype(int))
                size = sum(p.numel() for p in model.parameters()) / 1e6
                first = {"name": training.name, "steps": training.done, "parameters [M]": size}
                yield first | {"average": share, "way": way} | found | errors


@torch.inference_mode()
def errors_of_x0(model: Any, dataset: Dataset, held: np.ndarray, told: Any) -> dict[str, float]:
    """Root mean square error of x0 at some noise levels, on held-out images."""
    device = next(model.parameters()).device
    x0 = dataset.scaling.forward(torch.from_numpy(dataset.images[held])).to(device)
    found = {}
    for sigma in NOISES:
        noise = torch.randn(
            x0.shape, generator=torch.Generator(device).manual_seed(5), device=device
        )
        gap = model(x0 + sigma * noise, sigma, told.to(device)) - x0
        found[f"error at {sigma}"] = float(gap.square().mean().sqrt())
    return found


def shipped(name: str, n: int) -> Iterator[dict[str, Any]]:
    """One row for each method of the weights that ship under a name, against fresh lenses."""
    against = Against(lensnb.simulate(3 * n, seed=98765), n)
    for method in lensnb.load(name).params.sample.methods:
        drawer = lensnb.load(name, method)
        asked = drawer.asked(n, 0) or {}
        found = against.row(drawer.draw(n, 0), np.asarray(asked["class"]).astype(int))
        yield {"method": method, "evaluations": drawer.nfe} | found


def main() -> None:
    """Train and measure a round, or measure shipped weights; print and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("round", nargs="?", choices=[*ROUNDS, "gan"], default="first")
    parser.add_argument("--shipped", help="a name that lensnb.load knows, in place of a round")
    parser.add_argument("--n", type=int, help="images drawn: 1000, or 1500 of shipped weights")
    parser.add_argument("--small", action="store_true", help="two trainings of three steps")
    asked = parser.parse_args()
    if asked.shipped:
        name, found = asked.shipped, shipped(asked.shipped, asked.n or 1500)
    else:
        steps, images, only = (3, 600, 2) if asked.small else (2000, 60_000, None)
        name = asked.round
        n = asked.n or (20 if asked.small else 1000)
        if name == "gan":
            found = gan_rows(steps if asked.small else 3000, images, only, n)
        else:
            found = rows(*train(name, steps, images, only), n)
    kept = []
    for row in found:
        kept.append(row)
        print(*(v if isinstance(v, str) else f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    folder = io.home() / "outputs" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    io.write_rows(folder / f"search-{name}.csv", kept)


if __name__ == "__main__":
    main()
