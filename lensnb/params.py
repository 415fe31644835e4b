"""The schema of params/*.yaml: every knob with its type, unit, bounds and default.

The defaults are those of params/quick.yaml, so that a notebook run by hand, by plain papermill
and by `make run` all mean the same thing.
"""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lensnb.errors import InputError, nearest

Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Section(BaseModel):
    """Base of all sections: unknown keys, NaN and infinity are refused; values are fixed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value, info):
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("expected a value, not true or false")
        return value


class Data(Section):
    """Which images: simulated ones, or the user's own."""

    path: str | None = None                     # folder or .npy/.npz of images; null: simulate
    prior: str = "broad"                        # what is simulated: a name in priors.PRIORS
    n: int = Field(5000, ge=20)                 # images to simulate, or to read at most
    size: int = Field(64, ge=8, le=1024)        # pixels on a side; other sizes are resized
    channels: Literal[1, 3] | None = None       # null: as in the files
    pixel_scale: float | None = Field(None, gt=0)   # arcsec a pixel of the user's files, if known
    labels: str | None = None                   # .npy of integer labels for a single array
    scaling: Literal["linear", "minmax", "asinh"] = "asinh"    # minmax is per image
    holdout: float = Field(0.1, gt=0, le=0.5)   # share kept for the evaluation, never trained on


class Model(Section):
    """The U-Net of the diffusion model."""

    patch: Literal[1, 2, 4] = 4                 # pixel-unshuffle stem: 4 means 64x64 -> 16x16
    width: int = Field(48, ge=8)                # channels at the first level
    multipliers: tuple[Count, ...] = (1, 2)     # channels at each level, in units of the width
    blocks: Count = 1                           # residual blocks a level
    attention: tuple[int, ...] = (1,)           # levels that attend over all their pixels
    heads: Count = 4                            # attention heads
    dropout: float = Field(0.0, ge=0, lt=1)
    context: Literal["none", "class"] = "none"  # what the network is told beside the noise level

    @model_validator(mode="after")
    def _levels(self):
        levels = len(self.multipliers)
        if not levels:
            raise ValueError("multipliers names no level")
        if any(not 0 <= a < levels for a in self.attention):
            raise ValueError(f"attention {list(self.attention)} names a level outside 0..{levels - 1}")
        if self.width % 8 or any(self.width * m % self.heads for m in self.multipliers):
            raise ValueError(f"width {self.width} is not divisible by 8 (norm groups) and by heads {self.heads}")
        return self


class Diffusion(Section):
    """The forward process and what the network predicts of it."""

    schedule: Literal["cosine", "linear"] = "cosine"
    timesteps: int = Field(1000, ge=2)          # T
    beta_1: Fraction = 1e-4                     # linear schedule only: first and last beta
    beta_T: Fraction = 0.02
    prediction: Literal["v", "noise"] = "v"
    weighting: Literal["min_snr", "plain"] = "min_snr"  # weight of each noise level in the loss

    @model_validator(mode="after")
    def _betas(self):
        if self.beta_1 >= self.beta_T:
            raise ValueError(f"beta_1 {self.beta_1} must be below beta_T {self.beta_T}")
        return self


class Optimiser(Section):
    """What both training loops share."""

    steps: Count = 2000                         # updates
    batch: int = Field(16, ge=2)                # images an update
    rate: float = Field(1e-3, gt=0, lt=1)       # learning rate
    flips: bool = True                          # flips and quarter turns: symmetries of lenses
    log_every: Count = 100                      # steps between two printed lines
    checkpoint_every: Count = 200               # steps between two checkpoints


class Train(Optimiser):
    """Training of the diffusion model."""

    warmup: int = Field(100, ge=0)              # steps of linear warm-up
    cooldown: float = Field(0.4, ge=0, le=1)    # last share of the steps, over which the rate falls to zero
    decay: float = Field(0.01, ge=0)            # AdamW weight decay
    clip: float = Field(1.0, gt=0)              # largest norm of the gradient
    ema: Fraction = 0.1                         # EMA over this share of the steps so far
    drop_context: float = Field(0.1, ge=0, lt=1)    # share of contexts dropped, for guidance


class Gan(Optimiser):
    """The self-attention GAN."""

    steps: Count = 500                          # generator updates
    batch: int = Field(32, ge=2)
    rate: float = Field(2e-4, gt=0, lt=1)
    latent: Count = 64                          # length of the latent vector
    width: int = Field(32, ge=8, multiple_of=4)     # channels at half resolution; coarser maps have 2, 4, 8 times as many
    critic_updates: Count = 1                   # discriminator updates to one of the generator
    smoothing: float = Field(0.1, ge=0, lt=0.5)     # labels 1 - s for real and s for generated
    ema: float = Field(0.99, ge=0, lt=1)        # decay of the generator's average


class Method(Section):
    """One way to draw images; `model` names the trained generator that it draws from."""

    model: Literal["diffusion", "gan"] = "diffusion"
    sampler: Literal["ddpm", "ddim"] | None = None  # none for the GAN
    steps: Count | None = None                  # network evaluations (NFE) along the way
    eta: float = Field(0.0, ge=0, le=1)         # DDIM: 0 deterministic, 1 as noisy as DDPM
    clip: bool = False                          # clip the predicted image to the training range

    @model_validator(mode="after")
    def _complete(self):
        if self.model == "diffusion" and (self.sampler is None or self.steps is None):
            raise ValueError("a diffusion method needs `sampler` and `steps`")
        if self.model == "gan" and (self.sampler or self.steps):
            raise ValueError("a GAN method takes neither `sampler` nor `steps`")
        return self


class Sample(Section):
    """What is drawn from the trained generators."""

    n: int = Field(256, ge=2)                   # images for each method
    batch: Count = 64                           # images at a time; the result does not depend on it
    trajectory: Count = 4                       # images whose denoising is kept
    frames: int = Field(40, ge=2, le=100)       # steps kept of it
    methods: dict[Name, Method] = Field({
        "ddpm": {"sampler": "ddpm", "steps": 100},
        "ddim": {"sampler": "ddim", "steps": 50},
        "gan": {"model": "gan"},
    }, min_length=1)


class Evaluate(Section):
    """How generated images are judged against the held-out ones."""

    n: int = Field(256, ge=8)                   # images on each side, at most
    bootstrap: int = Field(200, ge=10)          # resamplings behind each standard error
    floors: int = Field(20, ge=2)               # real-vs-real splits behind each floor


class Params(Section):
    """One recipe: everything that decides what a run computes."""

    run: Name = "quick"                         # name of the run folder under outputs/
    seed: int = Field(0, ge=0, lt=2**31)        # fixes data, weights, noise
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int | None = Field(2, ge=1)        # CPU threads; another number changes the last bits
    data: Data = Data()
    model: Model = Model()
    diffusion: Diffusion = Diffusion()
    train: Train = Train()
    gan: Gan = Gan()
    sample: Sample = Sample()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _across_sections(self):
        factor = self.model.patch * 2 ** (len(self.model.multipliers) - 1)
        if self.data.size % factor:
            raise ValueError(f"data.size {self.data.size} is not a multiple of {factor}, "
                             "which model.patch and model.multipliers divide it by")
        if self.data.size % 16 and any(m.model == "gan" for m in self.sample.methods.values()):
            raise ValueError(f"data.size {self.data.size} is not a multiple of 16, which the GAN's four doublings need")
        for name, method in self.sample.methods.items():
            if method.steps and method.steps > self.diffusion.timesteps:
                raise ValueError(f"sample.methods.{name}.steps {method.steps} is above "
                                 f"diffusion.timesteps {self.diffusion.timesteps}")
        return self

    @classmethod
    def from_notebook(cls, variables):
        """The recipe made of a notebook's parameter cell; pass `globals()`."""
        given = {key: variables[key] for key in cls.model_fields if key in variables}
        return validate(given, "the parameters cell")


def load(path, overrides=""):
    """Read a recipe file and apply overrides such as "train.steps=2000 data.n=500".

    Returns `Params`; raises InputError with one sentence that names file, key and expectation.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(str(p) for p in path.parent.glob("*.yaml"))
        raise InputError(f"{path}: no such recipe; {_did_you_mean(path, known)}")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected `key: value` lines, found {type(tree).__name__}")
    try:
        items = shlex.split(overrides)
    except ValueError as error:
        raise InputError(f"overrides {overrides!r}: {error}") from None
    for item in items:
        _override(tree, item)
    return validate(tree, f"{path}" + (f" with {overrides}" if overrides else ""))


def validate(tree, source):
    """Turn a nested mapping into `Params`, or raise InputError with the first thing wrong in it."""
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{source}: {_sentence(error.errors()[0])}") from None


def _override(tree, item):
    key, equals, text = item.partition("=")
    *parents, leaf = key.split(".")
    if not (equals and all(parents) and leaf):
        raise InputError(f"override {item!r}: expected key=value with dots between levels, such as train.steps=2000")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise InputError(f"override {item!r}: {parent} is a single value and has no keys below it")
    try:
        tree[leaf] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"override {item!r}: {text!r} is not a YAML value") from None


def _sentence(error):
    """One pydantic error as `key: what was expected, what was found`."""
    loc = [str(part) for part in error["loc"]]
    key, message = ".".join(loc), error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}; {_did_you_mean(key, keys())}"
    message = message[0].lower() + message[1:]
    found = "" if isinstance(error["input"], dict | Section) else f" (found {error['input']!r})"
    return (f"{key}: " if key else "") + message + found


def keys(section=Params, prefix=""):
    """All valid dotted keys of a recipe, in order."""
    found = []
    for name, field in section.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        found += [prefix + name] + (keys(field.annotation, f"{prefix}{name}.") if nested else [])
    return found


def _did_you_mean(word, known):
    guess = nearest(word, known)
    return f"did you mean {guess}?" if guess else f"known are {', '.join(map(str, known)) or 'none'}"

