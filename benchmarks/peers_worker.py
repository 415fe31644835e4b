"""One measurement of benchmarks/peers.py, in the environment that has the library.

By itself this script does nothing. Every library is set up as in its own README, tutorial or
example, except for the width of its network. By default that of a peer gives 1.0 to 1.1 million
parameters; the quick recipe has 0.7 million. `width_for` finds the width for another number.
lensnb is imported only for its own measurement, because the environment of the peers does not have
it.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor, nn

Update = Callable[[int], Any]  # one training step, given its number
Draw = Callable[[int], Tensor]  # a number -> images (n, 1, H, W)
Setup = tuple[nn.Module, Update, Draw]

BATCH = 16  # images an update
DRAWN = 64  # images drawn at a time
SIZE = 64  # pixels on a side
UNTIMED = 2  # first updates, which are not timed: they compile and allocate
POINTS = (1 / 4, 1 / 2, 1)  # shares of the training after which images are drawn
# More points, of a library whose drawing takes seconds and not minutes.
EARLIER = {"lensnb": (1 / 32, 1 / 16, 1 / 8)}


# ---- the libraries: (images x (N, 1, H, W), steps planned, images an update, width of the network)
# -> network, update(k), draw(n)


def chosen(x: Tensor, batch: int) -> Tensor:
    """Random training images, half of them mirrored left to right, as in all three peers."""
    some = x[torch.randint(len(x), (batch,), device=x.device)]
    return torch.where(torch.rand(batch, 1, 1, 1, device=x.device) < 0.5, some.flip(3), some)


def denoising_diffusion_pytorch(
    x: Tensor, steps: int, batch: int = BATCH, width: int = 10
) -> Setup:
    """The README's network with the defaults of its Trainer.

    The Trainer itself reads picture files only.
    """
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    net = Unet(dim=width, dim_mults=(1, 2, 4, 8), channels=1, flash_attn=True)
    model = GaussianDiffusion(net, image_size=SIZE, timesteps=1000, sampling_timesteps=50)
    model = model.to(x.device)
    ema = EMA(model, beta=0.995, update_every=10)
    optimiser = torch.optim.Adam(model.parameters(), 1e-4, (0.9, 0.99))

    def update(k: int) -> None:
        model((chosen(x, batch) + 1) / 2).backward()  # it wants [0, 1]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        ema.update()

    def draw(n: int) -> Tensor:
        return 2 * ema.ema_model.sample(batch_size=n) - 1

    return net, update, draw


def diffusers(x: Tensor, steps: int, batch: int = BATCH, width: int = 32) -> Setup:
    """The documentation's tutorial "Train a diffusion model", with three levels of its six.

    It averages no weights.
    """
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
    from diffusers.optimization import get_cosine_schedule_with_warmup

    net = UNet2DModel(
        SIZE,
        1,
        1,
        layers_per_block=2,
        block_out_channels=(width, width, 2 * width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ).to(x.device)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4)
    warmup = min(500, steps // 10)  # 500 in the tutorial
    rate = get_cosine_schedule_with_warmup(optimiser, warmup, steps)

    def update(k: int) -> None:
        clean = chosen(x, batch)
        noise = torch.randn_like(clean)
        t = torch.randint(1000, (batch,), device=x.device)
        predicted = net(scheduler.add_noise(clean, noise, t), t, return_dict=False)[0]
        torch.nn.functional.mse_loss(predicted, noise).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        rate.step()
        optimiser.zero_grad()

    def draw(n: int) -> Tensor:
        pipeline = DDIMPipeline(net, DDIMScheduler.from_config(scheduler.config))
        made = pipeline(batch_size=n, num_inference_steps=50, output_type="np")
        return 2 * torch.from_numpy(made.images).movedim(3, 1) - 1  # from (n, H, W, 1) in [0, 1]

    return net, update, draw


def smalldiffusion(x: Tensor, steps: int, batch: int = BATCH, width: int = 32) -> Setup:
    """The example fashion_mnist_unet at half its width: the body of its loop and its sampler."""
    from accelerate import Accelerator
    from smalldiffusion import Scaled, ScheduleLogLinear, Unet, generate_train_sample, samples
    from torch_ema import ExponentialMovingAverage

    net = Scaled(Unet)(SIZE, 1, 1, ch=width, ch_mult=(1, 1, 2), attn_resolutions=(SIZE // 2,))
    net = net.to(x.device)
    schedule = ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)
    optimiser = torch.optim.AdamW(net.parameters(), lr=7e-4)
    ema = ExponentialMovingAverage(net.parameters(), decay=0.999)
    on = Accelerator(cpu=x.device.type == "cpu")

    def update(k: int) -> None:
        net.train()
        optimiser.zero_grad()
        clean, sigma, noise, _ = generate_train_sample(chosen(x, batch), schedule)
        net.get_loss(clean, sigma, noise).backward()
        optimiser.step()
        ema.update()

    def draw(n: int) -> Tensor:
        sigmas = schedule.sample_sigmas(20)
        with ema.average_parameters():
            return list(samples(net, sigmas, gam=1.6, batchsize=n, accelerator=on))[-1]

    return net, update, draw


def lensnb(x: Tensor, steps: int, batch: int = BATCH, width: int = 32) -> Setup:
    """The quick recipe, told nothing of an image, because the peers are not.

    Its training is as long as planned. Its method `ddim` draws in 50 steps, like the peers.
    """
    from lensnb import generator, io, sampler
    from lensnb.recipes.recipe import load_recipe
    from lensnb.seeds import Purpose, derived_seed
    from lensnb.training import loader, loop
    from lensnb.training.accelerator import make_accelerator

    overrides = (
        f"device={x.device.type} train.steps={steps} train.batch={batch} model.width={width} "
        "model.grid=polar model.context=none"
    )
    recipe = load_recipe(io.home() / "params/quick.yaml", overrides)
    dataset = SimpleNamespace(
        images=x, classes=(), labels=None, truth={}, sigma_data=float(x.std()), scaling=None
    )
    task = loop.task("diffusion", recipe, dataset, make_accelerator(recipe.device))
    batches = loader.Batches(x, None, batch, recipe.train.flips, recipe.seed)
    sigmas = generator.sigmas_of(recipe.sample.methods["ddim"], recipe.diffusion)

    def update(k: int) -> None:
        seed = derived_seed(recipe.seed, Purpose.UPDATES, k)
        generator = torch.Generator(x.device).manual_seed(seed)
        task.step(k, *batches(k, generator), generator)

    def draw(n: int) -> Tensor:
        noise = sampler.ImageNoise(torch.randint(2**62, (n,)).tolist())
        net = task.model.module.eval()
        start = sampler.start(sigmas, x.shape[1:], noise, device=x.device)
        return list(sampler.ddim(net, sigmas, start, noise))[-1].x

    return task.denoiser, update, draw


LIBRARIES = {
    "lensnb": lensnb,
    "denoising-diffusion-pytorch": denoising_diffusion_pytorch,
    "diffusers": diffusers,
    "smalldiffusion": smalldiffusion,
}
WIDTHS = (32, 64, 96, 128)  # that all peers can be built with


def width_for(library: str, parameters: float) -> int:
    """The width that brings a library's network closest to a number of parameters."""
    x = torch.zeros(1, 1, SIZE, SIZE)

    def miss(width: int) -> float:
        net = LIBRARIES[library](x, 10, 1, width)[0]
        return abs(sum(p.numel() for p in net.parameters()) - parameters)

    return min(WIDTHS, key=miss)


# ---- what is measured


def stand_in() -> str:
    """The version of torchvision; an empty module takes its place if it cannot be imported.

    There may be no build for this torch. The peers use it for picture files only.
    """
    try:
        import torchvision

        return f"torchvision {torchvision.__version__}"
    except Exception as error:  # a build for CUDA beside a torch without it raises RuntimeError
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        stub = MagicMock(__spec__=ModuleSpec("torchvision", None))
        sys.modules.update({"torchvision": stub, "torchvision.transforms": stub.transforms})
        return f"torchvision stubbed ({error})"


def now(device: str) -> float:
    """The time in seconds, after the device has finished all its work."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def speed(update: Update, device: str, seconds: float, batch: int = BATCH) -> dict[str, float]:
    """Training images a second, and peak memory in GiB."""
    for k in range(UNTIMED):
        update(k)
    start = now(device)
    done = 0
    while now(device) - start < seconds:
        for k in range(4):  # without a wait for the GPU in between
            update(UNTIMED + done + k)
        done += 4
    rate = batch * done / (now(device) - start)
    peak = (
        torch.cuda.max_memory_allocated()
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {"images_per_second": rate, "peak_gib": peak / 2**30}


def quality(
    update: Update,
    draw: Draw,
    device: str,
    stops: Sequence[int],
    n: int,
    save: Callable[[int, Tensor], None],
) -> dict[str, list[dict[str, float]]]:
    """Train, and draw after each number of updates in `stops`.

    Returns {"points": [step, seconds trained, seconds an image]}; save(i, images (n, 1, H, W)) gets
    the images of each stop.
    """
    done = 0
    seconds = 0.0
    points = []
    for i, stop in enumerate(stops):
        for k in range(done, min(UNTIMED, stop)):
            update(k)
        start = now(device)
        for k in range(max(done, UNTIMED), stop):
            update(k)
        done = stop
        seconds = seconds + now(device) - start
        start = now(device)
        with torch.no_grad():
            parts = [draw(min(DRAWN, n - at)).float().cpu() for at in range(0, n, DRAWN)]
            save(i, torch.cat(parts))
        per_image = (now(device) - start) / n
        points.append({"step": done, "seconds": seconds, "seconds_per_image": per_image})
    return {"points": points}


def work(job: SimpleNamespace) -> None:
    """Do one measurement and write result.json to its folder.

    The images go there in lensnb's scaled units.
    """
    torch.manual_seed(0)
    torch.set_num_threads(job.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = Path(job.folder)
    ours = job.library == "lensnb"
    told: dict[str, Any] = {
        "torch": torch.__version__,
        "torchvision": "" if ours else stand_in(),
        "device": device,
    }
    x = torch.from_numpy(np.load(folder / "train.npy")).to(device)
    # The peers want the range of the pixels as [-1, 1].
    low, high = (-1, 1) if ours else (x.min(), x.max())
    with torch.autocast(device, torch.bfloat16, enabled=job.fast):
        net, update, draw = LIBRARIES[job.library](2 * (x - low) / (high - low) - 1, job.steps)
        if job.fast:
            net.compile()
        told["parameters"] = sum(p.numel() for p in net.parameters())

        def save(i: int, images: Tensor) -> None:
            scaled = (images + 1) / 2 * float(high - low) + float(low)
            np.save(folder / f"{job.library}-{i}.npy", scaled.numpy())

        shares = EARLIER.get(job.library, ()) + POINTS
        stops = sorted({max(UNTIMED + 1, round(share * job.steps)) for share in shares})
        if job.seconds:
            told |= speed(update, device, job.seconds)
        else:
            told |= quality(update, draw, device, stops, job.n, save)
    (folder / "result.json").write_text(json.dumps(told))


if __name__ == "__main__" and len(sys.argv) > 1:
    work(SimpleNamespace(**json.loads(sys.argv[1])))
