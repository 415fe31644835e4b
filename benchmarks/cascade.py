"""A cascade, 16x16 images that condition 64x64 images, against one model in the same minutes.

Ho et al. 2022 (arXiv:2106.15282): a first model draws small images. A second one sees them enlarged
and draws the large images. Both arms have the quick recipe's trunk, which works on maps of 16x16:
of the pixels themselves in the first stage, of patches of 4x4 in the others. So the stages cost the
same a step, and the cascade has half of the minutes for each.

python benchmarks/cascade.py --minutes 4
"""

import argparse
import copy
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import lensnb
from lensnb import denoiser, schedule
from lensnb.datasets.dataset import Scaling

BATCH = 16
SMALL = 16
BLUR = 0.3  # largest noise on the condition in training, in scaled units
DRAWN_BLUR = 0.1  # at drawing; noise hides the first stage's errors from the second


class Enlarging(nn.Module):
    """A network of two channels as one of one channel that sees a small image.

    context (B, SMALL^2 + 1) : the small image's pixels, then the noise on it
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, context: torch.Tensor):
        small, blur = context[:, :-1].view(-1, 1, SMALL, SMALL), context[:, -1:]
        large = F.interpolate(small, x.shape[2:], mode="bilinear")
        return self.net(torch.cat([x, large], 1), c_noise, blur)[:, :1]


def small_of(images: torch.Tensor) -> torch.Tensor:
    """Images (N, 1, 64, 64) averaged down to (N, 1, 16, 16)."""
    return F.avg_pool2d(images, images.shape[2] // SMALL)


def condition(small: torch.Tensor, blur: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The second stage's context (B, SMALL^2 + 1): small images with noise of levels blur (B,)."""
    noisy = small + blur[:, None, None, None] * noise
    return torch.cat([noisy.flatten(1), blur[:, None]], 1)


Told = Callable[[torch.Tensor, torch.Generator], torch.Tensor | None]


def trained(
    net: nn.Module, images: torch.Tensor, seconds: float, told: Told
) -> tuple[denoiser.Denoiser, int]:
    """The average of a denoiser trained for so many seconds, and its updates.

    The rate falls linearly over the last 40 percent of the time.
    """
    device = images.device
    model = denoiser.Denoiser(net.to(device), "edm", images.std().item())
    average = copy.deepcopy(model)
    adam = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.99), weight_decay=0.01)
    generator = torch.Generator(device).manual_seed(0)
    levels = schedule.cosine()
    start = time.perf_counter()
    updates = 0
    while (spent := (time.perf_counter() - start) / seconds) < 1:
        for group in adam.param_groups:
            group["lr"] = 1e-3 * min(1, (updates + 1) / 100, (1 - spent) / 0.4)
        rows = torch.randint(len(images), (BATCH,), generator=generator, device=device)
        x0 = images[rows]
        sigma = levels.train_sigmas(BATCH, generator)
        noise = torch.randn(x0.shape, generator=generator, device=device)
        loss = denoiser.loss(model, x0, sigma, noise, model.weight(sigma), told(x0, generator))
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        updates += 1
        for kept, new in zip(average.parameters(), model.parameters(), strict=True):
            kept.data.lerp_(new.data, min(1, 10 / updates))
    return average, updates


def nothing(x0: torch.Tensor, generator: torch.Generator) -> None:
    """No context."""


def blurred(x0: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The condition of a training batch, with noise of random levels up to BLUR."""
    small = small_of(x0)
    blur = BLUR * torch.rand(len(x0), generator=generator, device=x0.device)
    noise = torch.randn(small.shape, generator=generator, device=x0.device)
    return condition(small, blur, noise)


def drawn(
    model: nn.Module, side: int, steps: int, n: int, context: torch.Tensor | None = None
) -> np.ndarray:
    """n images (n, 1, side, side) by DPM-Solver++, in scaled units."""
    sigmas = torch.cat([schedule.karras(steps, 0.1, 80, 7), torch.zeros(1)])
    return lensnb.sample(model, "dpmpp_2m", sigmas, n, (1, side, side), seed=1, context=context)


def main() -> None:
    """Train both arms, print the Frechet distance of each in LensNet's features."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=4, help="of training of each arm")
    parser.add_argument("--n", type=int, default=256, help="images drawn and held out")
    parser.add_argument("--train", type=int, default=4000, help="images to train on")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    images = lensnb.simulate(asked.train + asked.n, seed=1)
    held_out, images = images[: asked.n], images[asked.n :]
    scaling = Scaling.fit(images, "asinh")
    x0 = scaling.forward(torch.from_numpy(images)).float().to(asked.device)
    seconds = 60 * asked.minutes

    def report(name: str, made: np.ndarray, updates: str) -> None:
        found = lensnb.frechet(scaling.inverse(torch.from_numpy(made)).numpy(), held_out)
        print(f"{name}: {updates} updates, Frechet (LensNet) {found}", flush=True)

    torch.manual_seed(0)
    one, updates = trained(lensnb.UNet(width=64), x0, seconds, nothing)
    report("one model, 20 evaluations", drawn(one, 64, 20, asked.n), str(updates))

    first, of_first = trained(lensnb.UNet(patch=1, width=64), small_of(x0), seconds / 2, nothing)
    net = Enlarging(lensnb.UNet(channels=2, width=64, context=1))
    second, of_second = trained(net, x0, seconds / 2, blurred)
    small = torch.from_numpy(drawn(first, SMALL, 10, asked.n))
    true_small = small_of(scaling.forward(torch.from_numpy(held_out)).float())
    noise = torch.randn(small.shape, generator=torch.Generator().manual_seed(2))
    blur = torch.full((asked.n,), DRAWN_BLUR)
    for name, given in (("cascade, 10 + 10 evaluations", small), ("of true 16x16", true_small)):
        made = drawn(second, 64, 10, asked.n, condition(given, blur, noise))
        report(name, made, f"{of_first} + {of_second}")


if __name__ == "__main__":
    main()
