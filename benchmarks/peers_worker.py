"""One measurement of benchmarks/peers.py, in the environment that has the library; by itself it does nothing.

Every library is set up as its own README, tutorial or example has it, but for the width of its network,
which is tuned to the number of parameters of the quick recipe's within 10 %. lensnb is imported only for
its own measurement: the environment of the peers does not have it.
"""

import json
import resource
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import torch

# images an update, images drawn at a time, pixels on a side
BATCH = 16
DRAWN = 64
SIZE = 64
UNTIMED = 2  # the first updates are not timed: they compile and allocate
POINTS = (1 / 4, 1 / 2, 1)  # shares of the training after which images are drawn
EARLIER = {"lensnb": (1 / 32, 1 / 16, 1 / 8)}  # where drawing takes seconds and not minutes


# ---- the libraries: (images x (N, 1, H, W), steps planned) -> network, update(k), draw(n)


def batch(x):
    """Random training images, each as it is or mirrored left to right, as all three peers have it."""
    some = x[torch.randint(len(x), (BATCH,), device=x.device)]
    return torch.where(torch.rand(BATCH, 1, 1, 1, device=x.device) < 0.5, some.flip(3), some)


def denoising_diffusion_pytorch(x, steps):
    """The README's network with the defaults of its Trainer, which itself reads picture files only."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    net = Unet(dim=10, dim_mults=(1, 2, 4, 8), channels=1, flash_attn=True)
    model = GaussianDiffusion(net, image_size=SIZE, timesteps=1000, sampling_timesteps=50).to(
        x.device
    )
    ema = EMA(model, beta=0.995, update_every=10)
    optimiser = torch.optim.Adam(model.parameters(), 1e-4, (0.9, 0.99))

    def update(k):
        model((batch(x) + 1) / 2).backward()  # it wants [0, 1]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        ema.update()

    return net, update, lambda n: 2 * ema.ema_model.sample(batch_size=n) - 1


def diffusers(x, steps):
    """The documentation's tutorial "Train a diffusion model", with three levels of its six; it averages no weights."""
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
    from diffusers.optimization import get_cosine_schedule_with_warmup

    net = UNet2DModel(
        SIZE,
        1,
        1,
        layers_per_block=2,
        block_out_channels=(32, 32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ).to(x.device)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4)
    rate = get_cosine_schedule_with_warmup(
        optimiser, min(500, steps // 10), steps
    )  # 500 in the tutorial

    def update(k):
        clean = batch(x)
        noise = torch.randn_like(clean)
        t = torch.randint(1000, (BATCH,), device=x.device)
        predicted = net(scheduler.add_noise(clean, noise, t), t, return_dict=False)[0]
        torch.nn.functional.mse_loss(predicted, noise).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        rate.step()
        optimiser.zero_grad()

    def draw(n):
        pipeline = DDIMPipeline(net, DDIMScheduler.from_config(scheduler.config))
        images = pipeline(
            batch_size=n, num_inference_steps=50, output_type="np"
        ).images  # (n, H, W, 1) in [0, 1]
        return 2 * torch.from_numpy(images).movedim(3, 1) - 1

    return net, update, draw


def smalldiffusion(x, steps):
    """The example fashion_mnist_unet at half its width, its loop's body and its sampler."""
    from accelerate import Accelerator
    from smalldiffusion import Scaled, ScheduleLogLinear, Unet, generate_train_sample, samples
    from torch_ema import ExponentialMovingAverage

    net = Scaled(Unet)(SIZE, 1, 1, ch=32, ch_mult=(1, 1, 2), attn_resolutions=(SIZE // 2,)).to(
        x.device
    )
    schedule = ScheduleLogLinear(sigma_min=0.01, sigma_max=20, N=800)
    optimiser = torch.optim.AdamW(net.parameters(), lr=7e-4)
    ema = ExponentialMovingAverage(net.parameters(), decay=0.999)
    on = Accelerator(cpu=x.device.type == "cpu")

    def update(k):
        net.train()
        optimiser.zero_grad()
        clean, sigma, noise, _ = generate_train_sample(batch(x), schedule)
        net.get_loss(clean, sigma, noise).backward()
        optimiser.step()
        ema.update()

    def draw(n):
        with ema.average_parameters():
            return list(
                samples(net, schedule.sample_sigmas(20), gam=1.6, batchsize=n, accelerator=on)
            )[-1]

    return net, update, draw


def lensnb(x, steps):
    """The quick recipe with a million parameters that predict v, its training as long as planned, drawn from by its method `ddim`: 50 steps, like the peers."""
    from lensnb import generator, io, sampler
    from lensnb.recipes.recipe import load_recipe
    from lensnb.seeds import Purpose, derived_seed
    from lensnb.training import loader, loop
    from lensnb.training.accelerator import make_accelerator

    recipe = load_recipe(
        io.home() / "params/quick.yaml",
        f"device={x.device.type} train.steps={steps} train.batch={BATCH} model.width=48 diffusion.prediction=v",
    )
    dataset = SimpleNamespace(
        images=x, classes=(), labels=None, truth={}, sigma_data=float(x.std()), scaling=None
    )
    task = loop.task("diffusion", recipe, dataset, make_accelerator(recipe.device))
    batches = loader.Batches(x, None, BATCH, recipe.train.flips, recipe.seed)
    sigmas = generator.sigmas_of(recipe.sample.methods["ddim"], recipe.diffusion)

    def update(k):
        generator = torch.Generator(x.device).manual_seed(
            derived_seed(recipe.seed, Purpose.UPDATES, k)
        )
        task.step(k, *batches(k, generator), generator)

    def draw(n):
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


# ---- what is measured


def stand_in():
    """Where torchvision cannot be imported (no build for this torch), an empty module: peers use it for picture files only."""
    try:
        import torchvision

        return f"torchvision {torchvision.__version__}"
    except Exception as error:  # a build for CUDA beside a torch without it raises RuntimeError
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        stub = MagicMock(__spec__=ModuleSpec("torchvision", None))
        sys.modules.update({"torchvision": stub, "torchvision.transforms": stub.transforms})
        return f"torchvision stubbed ({error})"


def now(device):
    """Seconds, after all that the device has been given is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def speed(update, device, seconds):
    """Training images a second, and peak memory in GiB."""
    for k in range(UNTIMED):
        update(k)
    start = now(device)
    done = 0
    while now(device) - start < seconds:
        for k in range(4):  # without waiting for a GPU in between
            update(UNTIMED + done + k)
        done += 4
    rate = BATCH * done / (now(device) - start)
    peak = (
        torch.cuda.max_memory_allocated()
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {"images_per_second": rate, "peak_gib": peak / 2**30}


def quality(update, draw, device, stops, n, save):
    """Train; after each number of updates in `stops` save(i, images (n, 1, H, W)) and note seconds trained and drawn."""
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
            save(
                i, torch.cat([draw(min(DRAWN, n - at)).float().cpu() for at in range(0, n, DRAWN)])
            )
        points.append(
            {"step": done, "seconds": seconds, "seconds_per_image": (now(device) - start) / n}
        )
    return {"points": points}


def work(job):
    """Do one measurement and write result.json to its folder; images go there in lensnb's scaled units."""
    torch.manual_seed(0)
    torch.set_num_threads(job.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = Path(job.folder)
    ours = job.library == "lensnb"
    told = {"torch": torch.__version__, "torchvision": "" if ours else stand_in(), "device": device}
    x = torch.from_numpy(np.load(folder / "train.npy")).to(device)
    low, high = (
        (-1, 1) if ours else (x.min(), x.max())
    )  # the peers want the range of the pixels as [-1, 1]
    with torch.autocast(device, torch.bfloat16, enabled=job.fast):
        net, update, draw = LIBRARIES[job.library](2 * (x - low) / (high - low) - 1, job.steps)
        if job.fast:
            net.compile()
        told["parameters"] = sum(p.numel() for p in net.parameters())

        def scaled(y):
            return ((y + 1) / 2 * float(high - low) + float(low)).numpy()

        def save(i, images):
            return np.save(folder / f"{job.library}-{i}.npy", scaled(images))

        stops = sorted(
            {
                max(UNTIMED + 1, round(share * job.steps))
                for share in EARLIER.get(job.library, ()) + POINTS
            }
        )
        told |= (
            speed(update, device, job.seconds)
            if job.seconds
            else quality(update, draw, device, stops, job.n, save)
        )
    (folder / "result.json").write_text(json.dumps(told))


if __name__ == "__main__" and len(sys.argv) > 1:
    work(SimpleNamespace(**json.loads(sys.argv[1])))
