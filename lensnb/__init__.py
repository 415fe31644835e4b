"""lensnb: train, sample and honestly compare generators of gravitational-lens images.

The names below are the public face. They load when they are first used, so that
`import lensnb` is quick and brings no torch. Each module's docstring says what else it offers.

>>> import lensnb
>>> real = lensnb.simulate(512, seed=1)
>>> real.shape
(512, 1, 64, 64)
>>> net = lensnb.Denoiser(lensnb.UNet(width=32))
>>> levels = lensnb.schedule.cosine(timesteps=1000)
>>> noisy = lensnb.add_noise(real, sigma=levels.sigmas[500], seed=0)
>>> sigmas = levels.sample_sigmas(50)
>>> made = lensnb.sample(net, "ddim", sigmas, n=16, shape=(1, 64, 64), seed=0)
>>> made.shape
(16, 1, 64, 64)
>>> found = lensnb.frechet(made, real)
>>> found.ratio > 1, found.n
(True, 16)
>>> lensnb.load("reference").draw(16, seed=1).shape
(16, 1, 64, 64)
>>> run = lensnb.open_run("quick")
>>> table = lensnb.compare(["quick", "longer"])
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lensnb import likelihood, metrics, operators, posterior, sampler, schedule
    from lensnb.apps.judging import judge
    from lensnb.denoiser import Denoiser, add_noise
    from lensnb.errors import InputError
    from lensnb.evaluation.frechet import frechet
    from lensnb.lensing.simulate import simulate_images as simulate
    from lensnb.pipeline import (
        cite,
        compare,
        compare_methods,
        draw_samples,
        evaluate_method,
        load_data,
        load_generator,
        load_samples,
        load_trajectory,
        load_watched,
        make_data,
        open_run,
        progress,
        train_model,
    )
    from lensnb.pretrained import load
    from lensnb.recipes.recipe import Params, load_recipe
    from lensnb.sampler import sample
    from lensnb.sharing import export
    from lensnb.unet import UNet

# public name -> module, or module:name where the name there is another; the others are in pipeline
_ELSEWHERE = {
    "Denoiser": "lensnb.denoiser",
    "InputError": "lensnb.errors",
    "Params": "lensnb.recipes.recipe",
    "UNet": "lensnb.unet",
    "add_noise": "lensnb.denoiser",
    "export": "lensnb.sharing",
    "frechet": "lensnb.evaluation.frechet",
    "judge": "lensnb.apps.judging",
    "likelihood": "",
    "load": "lensnb.pretrained",
    "load_recipe": "lensnb.recipes.recipe",
    "metrics": "",
    "operators": "",
    "posterior": "",
    "sample": "lensnb.sampler",
    "sampler": "",
    "schedule": "",
    "simulate": "lensnb.lensing.simulate:simulate_images",
}

__all__ = [
    "Denoiser",
    "InputError",
    "Params",
    "UNet",
    "add_noise",
    "cite",
    "compare",
    "compare_methods",
    "draw_samples",
    "evaluate_method",
    "export",
    "frechet",
    "judge",
    "likelihood",
    "load",
    "load_data",
    "load_generator",
    "load_recipe",
    "load_samples",
    "load_trajectory",
    "load_watched",
    "make_data",
    "metrics",
    "open_run",
    "operators",
    "posterior",
    "progress",
    "sample",
    "sampler",
    "schedule",
    "simulate",
    "train_model",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("lensnb")
    elif name in __all__:
        place = _ELSEWHERE.get(name, "lensnb.pipeline")
        module, _, there = (place or f"lensnb.{name}").partition(":")
        found = importlib.import_module(module)
        value = getattr(found, there or name) if place else found
    else:
        raise AttributeError(f"module 'lensnb' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
