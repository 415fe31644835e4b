"""The sections of a recipe: every knob with its type, bounds and default.

params/quick.yaml says what each knob means. The defaults are the values of that file, so that a
notebook run by hand, by plain papermill and by `make run` all mean the same. What a knob may name,
such as a sampler, is read off the registry of that thing.
"""

import math
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lensnb.consistency import WEIGHTS
from lensnb.denoiser import LEVELS, PREDICTIONS, WEIGHTINGS
from lensnb.gan import LOSSES
from lensnb.kinds import KINDS, Kind
from lensnb.lensing.priors import PRIORS
from lensnb.networks import GAN_NETWORKS, NETWORKS
from lensnb.networks.blocks import BLOCKS, NORMS, Border
from lensnb.networks.minibatch import GROUP
from lensnb.recipes.named import named
from lensnb.sampler import SAMPLERS
from lensnb.schedule import SCHEDULES, Discrete

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
# A run that was kept under another name is called quick~1.
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(~[0-9]+)?$", max_length=100)]
FilePath = Annotated[str, Field(min_length=1)]
Axes = Annotated[str, Field(pattern=r"^[NCHW]{2,4}$")]
Column = Annotated[str, Field(min_length=1, max_length=200)]  # of a truth table
Flips = Literal["square", "mirror", "none"]

FIRST_KIND = next(iter(KINDS))  # the kind of generator of a method that names none
KINDS_OF_CONTEXT = ("auto", "none", "class", "physics")
FINE = 16  # channels of the light path beside a polar trunk, where a recipe leaves the choice
LEAST_LEFT = 1e-30  # alpha_bar at the end of a schedule: sigma^2 is finite in single precision


class Section(BaseModel):
    """Base of all sections: unknown keys, NaN and infinity are refused; values are fixed."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise ValueError("expected a value, not true or false")
        return value


def _refuse_descending(section: Section, low: str, high: str) -> None:
    """Raises ValueError unless the value of `low` is below the value of `high`."""
    least, most = getattr(section, low), getattr(section, high)
    if least >= most:
        raise ValueError(f"{low} {least} must be below {high} {most}")


class Data(Section):
    """Which images: simulated ones, published ones, or the user's own."""

    path: FilePath | None = None
    download: Literal["mnist"] | None = None
    prior: Annotated[str, named(PRIORS)] = "broad"
    n: Annotated[int, Field(ge=20)] = 5000
    seed: Seed | None = None
    size: Annotated[int, Field(ge=8, le=1024)] = 64
    channels: Count | None = None
    pixel_scale: Positive | None = None
    labels: FilePath | None = None
    axes: Axes | None = None
    bands: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    crop: Literal["centre"] | Annotated[int, Field(ge=8)] | None = None
    resize: bool | None = None
    fill: float | None = None
    hdu: int | str | tuple[int | str, ...] | None = None
    key: Annotated[str, Field(min_length=1)] | None = None
    table: FilePath | None = None
    group: Annotated[str, Field(min_length=1)] | None = None
    scaling: Literal["linear", "minmax", "asinh", "range"] = "asinh"
    softening: Positive = 3.0
    holdout: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    workers: Count | None = None

    @field_validator("axes")
    @classmethod
    def _each_axis_once(cls, axes: str | None) -> str | None:
        if axes is not None and (len(set(axes)) < len(axes) or not {"H", "W"} <= set(axes)):
            raise ValueError("expected H, W and, where there are such axes, N and C, each once")
        return axes

    @property
    def simulated(self) -> bool:
        """Whether the images are simulated, and not read."""
        return self.path is None and self.download is None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.download is not None and (self.path is not None or self.labels is not None):
            raise ValueError(
                f"download {self.download} brings its own images and labels; "
                "leave out path and labels"
            )
        return self


class Model(Section):
    """The network of the diffusion model."""

    network: Annotated[str, named(NETWORKS)] = "unet"
    block: Annotated[str, named(BLOCKS)] = "residual"
    norm: Annotated[str, named(NORMS)] = "group"
    groups: Count = 8
    residual: bool = True
    patch: Literal[1, 2, 4, 8] = 2
    width: Annotated[int, Field(ge=8)] = 32
    multipliers: tuple[Count, ...] = (1, 2, 2)
    blocks: Count = 1
    attention: tuple[int, ...] = (2,)
    heads: Count = 4
    side: Annotated[int, Field(ge=4)] | None = None
    dropout: Share = 0.0
    embed: Literal["block", "input"] = "block"
    fine: Literal["auto"] | Annotated[int, Field(ge=0, le=256)] = "auto"
    grid: Literal["auto", "cartesian", "polar"] = "auto"
    border: Border = "reflect"
    checkpointing: bool = False
    context: Literal["auto", "none", "class", "physics"] | tuple[Column, ...] = "auto"

    @field_validator("context", mode="before")
    @classmethod
    def _columns(cls, context: Any) -> Any:
        """Refuses a single column outside of a list, a list without columns, and repetitions."""
        if isinstance(context, str) and context not in KINDS_OF_CONTEXT:
            raise ValueError(
                f"expected {', '.join(KINDS_OF_CONTEXT)} or a list of columns, such as [{context}]"
            )
        if isinstance(context, list | tuple) and len(set(map(str, context))) < len(context):
            raise ValueError("names a column twice")
        if isinstance(context, list | tuple) and not context:
            raise ValueError("names no column; use none")
        return context

    @model_validator(mode="after")
    def _levels(self) -> Self:
        levels = len(self.multipliers)
        if not levels:
            raise ValueError("multipliers names no level")
        if any(not 0 <= level < levels for level in self.attention):
            raise ValueError(
                f"attention {list(self.attention)} names a level outside 0..{levels - 1}"
            )
        return self

    @model_validator(mode="after")
    def _light_path(self) -> Self:
        if self.grid == "polar" and self.fine == 0:
            raise ValueError("grid polar needs the light path at full resolution; set fine to 16")
        given = self.fine not in ("auto", 0) or self.grid == "polar"
        if self.network != "unet" and given:
            raise ValueError(f"network {self.network} has neither fine nor grid; leave them out")
        return self

    def resolved(self, centred: bool) -> Self:
        """This section without `auto` in fine and grid.

        centred : whether all images are centred on one object, as simulated lenses are. A polar
            trunk needs it; a light path without one made images worse (docs/search.md).
        """
        polar = self.network == "unet" and centred and self.fine != 0
        grid = ("polar" if polar else "cartesian") if self.grid == "auto" else self.grid
        fine = (FINE if grid == "polar" else 0) if self.fine == "auto" else self.fine
        return self.model_copy(update={"grid": grid, "fine": fine})

    @model_validator(mode="after")
    def _width(self) -> Self:
        if self.width % 8 or self.width % self.groups or self.width % self.heads:
            raise ValueError(
                f"width {self.width} is not divisible by 8, by groups {self.groups} "
                f"and by heads {self.heads}"
            )
        if self.block == "shuffle" and self.norm == "group" and self.width // 2 % self.groups:
            raise ValueError(
                f"half of width {self.width}, which a shuffle block normalises, "
                f"is not divisible by groups {self.groups}"
            )
        return self


class Diffusion(Section):
    """The forward process, and what the network predicts of it."""

    schedule: Annotated[str, named(SCHEDULES)] = "cosine"
    timesteps: Annotated[int, Field(ge=2, le=10**6)] = 1000
    beta_1: Annotated[float, Field(ge=1e-9, lt=1)] = 1e-4
    beta_T: Fraction = 0.02
    zero_snr: bool = False
    signal_high: Fraction = 0.95
    signal_low: Fraction = 0.02
    edm_mean: Annotated[float, Field(ge=-10, le=10)] = -1.2
    edm_std: Annotated[float, Field(gt=0, le=5)] = 1.2
    times: Literal["uniform", "logit_normal"] = "uniform"
    sigma_min: Annotated[float, Field(ge=1e-6)] = 0.002
    sigma_max: Annotated[float, Field(gt=0, le=1e4)] = 80.0
    rho: Annotated[float, Field(ge=1, le=1000)] = 7.0
    prediction: Annotated[str, named(PREDICTIONS)] = "edm"
    level: Annotated[str, named(LEVELS)] = "log_sigma"
    weighting: Annotated[str, named(WEIGHTINGS)] = "min_snr"

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        _refuse_descending(self, "beta_1", "beta_T")
        _refuse_descending(self, "signal_low", "signal_high")
        _refuse_descending(self, "sigma_min", "sigma_max")
        return self

    @model_validator(mode="after")
    def _something_left(self) -> Self:
        """Refuses linear betas at whose end sigma^2 is not finite in single precision."""
        left = self._log_alpha_bar() if self.schedule == "linear" else 0
        if left < math.log(LEAST_LEFT):
            raise ValueError(
                f"beta_1 {self.beta_1} to beta_T {self.beta_T} over {self.timesteps} timesteps "
                f"leave 1e{left / math.log(10):.0f} of the image's variance, too little for single "
                f"precision; take beta_T {min(20 / self.timesteps, 0.5):.2g} or so"
            )
        return self

    def _log_alpha_bar(self) -> float:
        """Logarithm of alpha_bar at the end of the linear schedule."""
        step = (self.beta_T - self.beta_1) / (self.timesteps - 1)
        betas = (min(self.beta_1 + step * t, self.beta_T) for t in range(self.timesteps))
        return sum(math.log1p(-beta) for beta in betas)

    @model_validator(mode="after")
    def _predictable(self) -> Self:
        if self.prediction == "noise" and (self.zero_snr or self.schedule == "flow"):
            raise ValueError(
                "prediction noise cannot tell the image where nothing but noise is left, "
                "which zero_snr and the flow schedule reach; take v, x0 or velocity"
            )
        return self

    @model_validator(mode="after")
    def _times(self) -> Self:
        if self.times != "uniform" and self.schedule != "flow":
            raise ValueError(
                f"times {self.times} are those of the flow schedule; leave them out, or set "
                "schedule to flow"
            )
        return self

    @property
    def discrete(self) -> bool:
        """Whether the schedule has a finite number of levels."""
        return isinstance(SCHEDULES[self.schedule](self), Discrete)


class Optimiser(Section):
    """What the trainings of both kinds of generator share."""

    steps: Count = 2000
    epochs: Count | None = None
    batch: Annotated[int, Field(ge=2)] = 16
    rate: Fraction = 1e-3
    shape: Literal["trapezium", "cosine", "onecycle"] = "trapezium"
    warmup: NotNegative = 100
    cooldown: Annotated[float, Field(ge=0, le=1)] = 0.4
    ema: Fraction = 0.1
    flips: Flips = "square"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: Literal["auto", "graphs"] | bool = False
    hold: Literal["auto", "device", "disk"] = "auto"
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    log_every: Count = 100
    checkpoint_every: Count = 200
    watch_every: Annotated[int, Field(ge=0)] = 500
    keep: tuple[Count, ...] = ()


class Train(Optimiser):
    """Training of the diffusion model."""

    steps: Count = 1500
    accumulate: Count = 1
    compile: Literal["auto", "graphs"] | bool = "auto"
    optimiser: Literal["adamw", "muon"] = "muon"
    muon_rate: Positive = 0.005
    ema: Fraction = 0.03
    decay: NotNegative = 0.01
    clip: Positive = 1.0
    drop_context: Share = 0.1


class Gan(Optimiser):
    """The GAN: networks, losses and their training."""

    kind: Annotated[str, named(GAN_NETWORKS)] = "modern"
    steps: Count = 2000
    rate: Fraction = 5e-4
    warmup: NotNegative = 50
    cooldown: Annotated[float, Field(ge=0, le=1)] = 0
    betas: tuple[Share, Share] = (0.5, 0.99)
    loss: Annotated[str, named(LOSSES)] | None = None
    latent: Count = 64
    mapping: Annotated[int, Field(ge=1, le=16)] = 2
    style: Annotated[int, Field(ge=8, le=4096)] = 128
    border: Border = "reflect"
    width: Annotated[int, Field(ge=8, multiple_of=4)] = 32
    critic_updates: Count = 1
    smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    penalty: Positive = 0.5
    penalty_end: Positive = 0.05
    penalty_every: Count = 4
    statistics: bool = False
    compile: Literal["auto"] | bool = False
    watch_every: Annotated[int, Field(ge=0)] = 200

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.statistics and self.batch % GROUP:
            raise ValueError(
                f"statistics compare {GROUP} images at a time, and batch {self.batch} is no "
                f"multiple of {GROUP}"
            )
        return self

    @model_validator(mode="after")
    def _latent_path(self) -> Self:
        if self.kind == "published" and (self.mapping, self.style) != (2, 128):
            raise ValueError(
                "the published generator has neither mapping nor style; leave them out, or set "
                "kind to modern"
            )
        return self


class Consistency(Optimiser):
    """Consistency tuning of the trained diffusion model."""

    accumulate: Count = 1
    optimiser: Literal["adamw", "muon"] = "muon"
    rate: Fraction = 3e-4
    muon_rate: Positive = 0.003
    decay: NotNegative = 0.0
    clip: Positive = 1.0
    dropout: Share | None = None
    mean: Annotated[float, Field(ge=-10, le=10)] = 0.5
    std: Annotated[float, Field(gt=0, le=5)] = 2.0
    stages: Annotated[int, Field(ge=1, le=60)] = 4
    q: Annotated[float, Field(gt=1, le=1e4)] = 2.0
    k: NotNegative = 8.0
    b: NotNegative = 1.0
    huber: NotNegative = 1e-3
    weighting: Annotated[str, named(WEIGHTS)] = "gap"
    compile: Literal["auto"] | bool = "auto"


class Method(Section):
    """One way to draw images; `model` is the kind of generator that it draws from.

    sampler, steps : needed if a sampler draws from that kind, refused otherwise
    spacing, sigma_min, sigma_max, rho : the noise levels that the sampler walks along
    sigma_mid : the level of a consistency model's second step; sigma_max is that of its first
    guidance_low, guidance_high : guidance acts on the noise levels between them
    guide : kept weights (see `keep`) of the worse model that guides, such as step-500
    start : noise about zero, or about the mean image that the network predicts from it
    """

    model: Annotated[str, named(KINDS)] = FIRST_KIND
    sampler: Annotated[str, named(SAMPLERS)] | None = None
    steps: Annotated[int, Field(ge=1, le=10**6)] | None = None
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    variance: Literal["small", "large"] | Annotated[float, Field(ge=0, le=1)] = "small"
    clip: bool = False
    guidance: Annotated[float, Field(ge=0, le=20)] = 1.0
    guidance_low: Annotated[float, Field(ge=0, le=1e4)] = 0.0
    guidance_high: Annotated[float, Field(gt=0, le=1e4)] = 1e4
    guide: Name | None = None
    spacing: Literal["schedule", "karras"] = "schedule"
    sigma_min: Annotated[float, Field(ge=1e-6)] = 0.05
    sigma_max: Annotated[float, Field(gt=0, le=1e4)] = 80.0
    rho: Annotated[float, Field(ge=1, le=1000)] = 7.0
    start: Literal["noise", "mean"] = "noise"
    sigma_mid: Annotated[float, Field(gt=0, le=1e4)] = 0.8

    @model_validator(mode="after")
    def _complete(self) -> Self:
        kind = KINDS[self.model]
        if kind.sampled and (self.sampler is None or self.steps is None):
            raise ValueError(f"a {kind.label} method needs `sampler` and `steps`")
        if kind.own_steps:
            self._refuse_other_steps(kind)
        elif not kind.sampled and (self.sampler or self.steps):
            raise ValueError(f"a {kind.label} method takes neither `sampler` nor `steps`")
        if not kind.sampled and (self.guidance != 1 or self.guide):
            raise ValueError(
                f"a {kind.label} follows its context as it was trained; leave out `guidance` and "
                "`guide`"
            )
        if not kind.sampled and self.start != "noise":
            raise ValueError(f"a {kind.label} has no noise levels to start at; leave out `start`")
        if self.guide and self.guidance == 1:
            raise ValueError(f"guide {self.guide} does nothing with guidance 1; take 1.5 or so")
        _refuse_descending(self, "sigma_min", "sigma_max")
        _refuse_descending(self, "guidance_low", "guidance_high")
        return self

    def _refuse_other_steps(self, kind: Kind) -> None:
        """Raises ValueError unless the steps are some that a kind takes without a sampler."""
        if self.sampler or self.steps is None or self.steps > kind.own_steps:
            raise ValueError(
                f"a {kind.label} method takes no `sampler`, and needs `steps` from 1 to "
                f"{kind.own_steps}"
            )
        _refuse_descending(self, "sigma_mid", "sigma_max")


# Levels down to a fifth of the pixel noise in scaled images: the levels of the cosine schedule lose
# flux and noise in so few steps.
FINELY: dict[str, Any] = {"spacing": "karras", "sigma_min": 0.014}
EVENLY: dict[str, Any] = {"sigma_min": 0.01, "rho": 20}  # of first order: 6 % lost, not 8 %


class Sample(Section):
    """What is drawn from the trained generators."""

    n: Annotated[int, Field(ge=2)] = 256
    batch: Count | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto"] | bool = "auto"
    trajectory: Count = 4
    frames: Annotated[int, Field(ge=2, le=100)] = 40
    context: FilePath | None = None
    methods: Annotated[dict[Name, Method], Field(min_length=1)] = {
        "ddpm": Method(sampler="ddpm", steps=100, variance=0.6, **FINELY),
        "ddim": Method(sampler="ddim", steps=50, **FINELY | EVENLY, start="mean"),
        "dpm": Method(sampler="dpmpp_2m", steps=18, **FINELY, start="mean"),
        "gan": Method(model="gan"),
    }


class Evaluate(Section):
    """How generated images are judged against the held-out ones."""

    n: Annotated[int, Field(ge=8)] = 256
    bootstrap: Annotated[int, Field(ge=10)] = 200
    floors: Annotated[int, Field(ge=2)] = 20
    fit: Annotated[int, Field(ge=0)] = 32
    psf_fwhm: Positive | None = None
    inception: FilePath | None = None
    workers: Count | None = None

    @field_validator("fit")
    @classmethod
    def _no_scatter_of_one(cls, fit: int) -> int:
        if fit == 1:
            raise ValueError("one image has no scatter; fit 2 or more, or 0 for none")
        return fit
