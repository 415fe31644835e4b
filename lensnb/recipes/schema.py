"""The sections of params/*.yaml: every knob with its type, unit, bounds and default.

The defaults are those of params/quick.yaml, so that a notebook run by hand, by plain papermill
and by `make run` all mean the same thing.
"""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
LEAST_LEFT = 1e-30  # alpha_bar at the end of a schedule: sigma^2 is finite in single precision
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
FilePath = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """Base of all sections: unknown keys, NaN and infinity are refused; values are fixed."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value, info):
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("expected a value, not true or false")
        return value


class Data(Section):
    """Which images: simulated ones, published ones, or the user's own."""

    path: FilePath | None = (
        None  # folder of .npy files, pictures or MNIST's files, or one .npy/.npz
    )
    download: Literal["mnist"] | None = (
        None  # published files, checked by sha256; scikit-learn's digits offline
    )
    prior: str = "broad"  # what is simulated: a name in priors.PRIORS
    n: int = Field(5000, ge=20)  # images to simulate, or to read at most
    seed: Seed | None = (
        None  # of simulation, split and choice of the judged images; null: the run's
    )
    size: int = Field(64, ge=8, le=1024)  # pixels on a side; other sizes are resized
    channels: Literal[1, 3] | None = None  # null: as in the files
    pixel_scale: float | None = Field(None, gt=0)  # arcsec a pixel of the user's files, if known
    labels: FilePath | None = None  # .npy of integer labels for a single array
    scaling: Literal["linear", "minmax", "asinh", "range"] = (
        "asinh"  # minmax is per image, range over all
    )
    holdout: float = Field(0.1, gt=0, le=0.5)  # share kept for the evaluation, never trained on

    @model_validator(mode="after")
    def _one_source(self):
        if self.download is not None and (self.path is not None or self.labels is not None):
            raise ValueError(
                f"download {self.download} brings its own images and labels; leave out path and labels"
            )
        return self


class Model(Section):
    """The network of the diffusion model."""

    network: Literal["unet", "dit"] = (
        "unet"  # dit: a transformer over patches; it reads patch, width, blocks, heads
    )
    block: Literal["residual", "context", "shuffle"] = "residual"
    norm: Literal["group", "batch", "batch_plain"] = (
        "group"  # batch_plain: without learned scale and shift
    )
    groups: Count = 8  # of the group norm
    residual: bool = True  # context blocks: with or without the short cut
    patch: Literal[1, 2, 4, 8] = 4  # pixel-unshuffle stem: 4 means 64x64 -> 16x16
    width: int = Field(64, ge=8)  # channels at the first level; dit: length of a token
    multipliers: tuple[Count, ...] = (1, 2)  # channels at each level, in units of the width
    blocks: Count = 1  # blocks a level; dit: blocks in all
    attention: tuple[int, ...] = (1,)  # levels that attend over all their pixels
    heads: Count = 4  # attention heads
    side: int | None = Field(None, ge=4)  # larger maps are averaged down to this before they attend
    dropout: float = Field(0.0, ge=0, lt=1)
    embed: Literal["block", "input"] = "block"  # where the network sees noise level and context
    checkpointing: bool = False  # activations are computed twice, not kept: less memory, more time
    context: Literal["auto", "none", "class", "physics"] = (
        "auto"  # what the network is told; auto: all that is known
    )

    @model_validator(mode="after")
    def _levels(self):
        levels = len(self.multipliers)
        if not levels:
            raise ValueError("multipliers names no level")
        if any(not 0 <= a < levels for a in self.attention):
            raise ValueError(
                f"attention {list(self.attention)} names a level outside 0..{levels - 1}"
            )
        if self.width % 8 or self.width % self.groups or self.width % self.heads:
            raise ValueError(
                f"width {self.width} is not divisible by 8, by groups {self.groups} and by heads {self.heads}"
            )
        if self.block == "shuffle" and self.norm == "group" and self.width // 2 % self.groups:
            raise ValueError(
                f"half of width {self.width}, which a shuffle block normalises, is not divisible by groups {self.groups}"
            )
        return self

    def network_options(self):
        """What the constructor of the network takes of this section."""
        if self.network == "unet":
            return self.model_dump(exclude={"network", "context"})
        return self.model_dump(
            include={"patch", "width", "blocks", "heads", "dropout", "checkpointing"}
        )


class Diffusion(Section):
    """The forward process and what the network predicts of it."""

    schedule: Literal["cosine", "linear", "sigmoid", "signal_rate", "edm", "flow"] = "cosine"
    timesteps: int = Field(
        1000, ge=2, le=10**6
    )  # T of cosine, linear and sigmoid; the others are continuous
    beta_1: float = Field(1e-4, ge=1e-9, lt=1)  # linear: first and last beta
    beta_T: Fraction = 0.02
    zero_snr: bool = False  # cosine, linear, sigmoid: the last level is noise alone
    signal_high: Fraction = 0.95  # signal_rate: share of the signal at the start and at the end
    signal_low: Fraction = 0.02
    edm_mean: float = Field(-1.2, ge=-10, le=10)  # edm: mean and scatter of log(sigma) in training
    edm_std: float = Field(1.2, gt=0, le=5)
    sigma_min: float = Field(0.002, ge=1e-6)  # edm: levels to sample along
    sigma_max: float = Field(80.0, gt=0, le=1e4)
    rho: float = Field(7.0, ge=1, le=1000)
    prediction: Literal["edm", "v", "noise", "x0", "velocity"] = "edm"
    level: Literal["log_sigma", "variance"] = (
        "log_sigma"  # what the network sees of the noise level
    )
    weighting: Literal["min_snr", "plain", "clamped_snr", "edm"] = (
        "min_snr"  # weight of each noise level in the loss
    )

    @model_validator(mode="after")
    def _consistent(self):
        for low, high in (
            ("beta_1", "beta_T"),
            ("signal_low", "signal_high"),
            ("sigma_min", "sigma_max"),
        ):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(
                    f"{low} {getattr(self, low)} must be below {high} {getattr(self, high)}"
                )
        step = (self.beta_T - self.beta_1) / (self.timesteps - 1)
        left = (
            sum(
                math.log1p(-min(self.beta_1 + step * t, self.beta_T)) for t in range(self.timesteps)
            )
            if self.schedule == "linear"
            else 0
        )
        if left < math.log(LEAST_LEFT):
            raise ValueError(
                f"beta_1 {self.beta_1} to beta_T {self.beta_T} over {self.timesteps} timesteps leave 1e{left / math.log(10):.0f} "
                f"of the image's variance, too little for single precision; take beta_T {min(20 / self.timesteps, 0.5):.2g} or so"
            )
        if self.prediction == "noise" and (self.zero_snr or self.schedule == "flow"):
            raise ValueError(
                "prediction noise cannot tell the image where nothing but noise is left, which zero_snr and "
                "the flow schedule reach; take v, x0 or velocity"
            )
        return self

    @property
    def discrete(self):
        """Whether the schedule has a finite number of levels."""
        return self.schedule in ("cosine", "linear", "sigmoid")


class Optimiser(Section):
    """What both training loops share."""

    steps: Count = 2000  # updates
    epochs: Count | None = None  # passes over the training images; takes the place of steps
    batch: int = Field(16, ge=2)  # images an update
    rate: float = Field(1e-3, gt=0, lt=1)  # learning rate
    shape: Literal["trapezium", "cosine", "onecycle"] = (
        "trapezium"  # of the learning rate over the steps
    )
    warmup: float = Field(100, ge=0)  # steps of warm-up, or the share of all steps if below 1
    cooldown: float = Field(
        0.4, ge=0, le=1
    )  # trapezium: last share of the steps, over which the rate falls to zero
    ema: Fraction = 0.1  # EMA over this share of the steps so far
    flips: Literal["square", "mirror", "none"] = (
        "square"  # square: flips and quarter turns, symmetries of lenses
    )
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    hold: Literal["auto", "device", "disk"] = (
        "auto"  # where the images are: disk for those that do not fit
    )
    tracker: Literal["none", "tensorboard", "wandb", "trackio"] = (
        "none"  # where losses are logged beside the run folder
    )
    log_every: Count = 100  # steps between two printed lines
    checkpoint_every: Count = 200  # steps between two checkpoints
    watch_every: int = Field(500, ge=0)  # steps between two looks at what is drawn by now; 0: never
    keep: tuple[Count, ...] = ()  # steps (epochs, where those are given) whose weights are kept


class Train(Optimiser):
    """Training of the diffusion model."""

    accumulate: Count = 1  # pieces that a batch is cut into, to save memory
    compile: bool = False  # torch.compile: slow to start, faster on a GPU
    decay: float = Field(0.01, ge=0)  # AdamW weight decay
    clip: float = Field(1.0, gt=0)  # largest norm of the gradient
    drop_context: float = Field(0.1, ge=0, lt=1)  # share of contexts dropped, for guidance


class Gan(Optimiser):
    """The GAN: networks, losses and their training."""

    kind: Literal["published", "modern"] = (
        "modern"  # deconvolutions and cross entropy, or residual blocks and relativistic pairs
    )
    steps: Count = 2000  # updates of the generator
    rate: float = Field(5e-4, gt=0, lt=1)
    warmup: float = Field(50, ge=0)
    cooldown: float = Field(
        0, ge=0, le=1
    )  # a discriminator that learns no more lets the generator drift
    betas: tuple[Share, Share] = (0.5, 0.99)  # of Adam
    latent: Count = 64  # length of the latent vector
    width: int = Field(
        32, ge=8, multiple_of=4
    )  # channels of the finest maps that carry the work; coarser ones have up to 4 (modern) or 8 times as many
    critic_updates: Count = 1  # discriminator updates to one of the generator
    smoothing: float = Field(
        0.1, ge=0, lt=0.5
    )  # published: labels 1 - s for real and s for generated
    penalty: float = Field(
        0.5, gt=0
    )  # modern: weight gamma of the gradient penalties, at first and at last
    penalty_end: float = Field(0.05, gt=0)
    penalty_every: Count = (
        4  # modern: updates between two that compute the penalties, with as many times the weight
    )
    watch_every: int = Field(200, ge=0)


class Method(Section):
    """One way to draw images; `model` names the trained generator that it draws from."""

    model: Literal["diffusion", "gan"] = "diffusion"
    sampler: (
        Literal["ddpm", "ddim", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_3m", "unipc"] | None
    ) = None  # none for the GAN
    steps: int | None = Field(
        None, ge=1, le=10**6
    )  # steps along the way; each is one network evaluation, of heun two
    eta: float = Field(0.0, ge=0, le=1)  # ddim: 0 deterministic, 1 as noisy as DDPM
    variance: Literal["small", "large"] = "small"  # ddpm: of the noise that is added
    clip: bool = False  # clip every predicted image to the training range
    guidance: float = Field(
        1.0, ge=0, le=20
    )  # where the network takes a context: 1 follows it, more exaggerates
    spacing: Literal["schedule", "karras"] = (
        "schedule"  # levels: those of the schedule (trailing), or by rho
    )
    sigma_min: float = Field(0.05, ge=1e-6)  # karras: near the noise of the scaled images
    sigma_max: float = Field(80.0, gt=0, le=1e4)
    rho: float = Field(7.0, ge=1, le=1000)

    @model_validator(mode="after")
    def _complete(self):
        if self.model == "diffusion" and (self.sampler is None or self.steps is None):
            raise ValueError("a diffusion method needs `sampler` and `steps`")
        if self.model == "gan" and (self.sampler or self.steps):
            raise ValueError("a GAN method takes neither `sampler` nor `steps`")
        if self.model == "gan" and self.guidance != 1:
            raise ValueError("a GAN follows its context as it was trained; leave out `guidance`")
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} must be below sigma_max {self.sigma_max}")
        return self


class Sample(Section):
    """What is drawn from the trained generators."""

    n: int = Field(256, ge=2)  # images for each method
    batch: Count = 64  # images at a time; the result does not depend on it
    trajectory: Count = 4  # images whose denoising is kept
    frames: int = Field(40, ge=2, le=100)  # steps kept of it
    context: FilePath | None = (
        None  # .csv of what to draw, used in turn; null: as the training images have it
    )
    methods: dict[Name, Method] = Field(
        {
            "ddpm": {"sampler": "ddpm", "steps": 100},
            "ddim": {"sampler": "ddim", "steps": 50},
            "dpm": {"sampler": "dpmpp_2m", "steps": 10, "spacing": "karras", "sigma_min": 0.1},
            "gan": {"model": "gan"},
        },
        min_length=1,
    )


class Evaluate(Section):
    """How generated images are judged against the held-out ones."""

    n: int = Field(256, ge=8)  # images on each side, at most
    bootstrap: int = Field(200, ge=10)  # resamplings behind each standard error
    floors: int = Field(20, ge=2)  # real-vs-real splits behind each floor
    fit: int = Field(
        32, ge=0
    )  # images of each side that the lens-model fit sees, 2 or more, 0 for none
    psf_fwhm: float | None = Field(
        None, gt=0
    )  # of the user's images; without it there is no fit [arcsec; without a scale pixels of data.size]
    inception: FilePath | None = (
        None  # file of torch-fidelity's Inception weights, or download; null: without
    )

    @field_validator("fit")
    @classmethod
    def _no_scatter_of_one(cls, fit):
        if fit == 1:
            raise ValueError("one image has no scatter; fit 2 or more, or 0 for none")
        return fit
