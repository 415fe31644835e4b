"""The denoiser against the papers and closed forms: parameterisations, loss, guidance, noise."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from lensnb import denoiser
from lensnb.denoiser import Denoiser, add_noise, loss
from lensnb.errors import InputError
from lensnb.unet import UNet

SIGMAS = torch.tensor([0.01, 0.3, 1.0, 7.0, 500.0], dtype=torch.float64)


class Known(nn.Module):
    """A network that puts out the exact target of its parameterisation.

    It knows the one pair (x0, noise).
    """

    def __init__(self, prediction, x0, noise):
        super().__init__()
        self.prediction = prediction
        self.x0 = x0
        self.noise = noise

    def forward(self, x, c_noise, context):
        sigma = (4 * c_noise).exp()[:, None, None, None]
        data = 0.5
        # of the variance-preserving state
        alpha = 1 / (1 + sigma**2).sqrt()
        spread = sigma / (1 + sigma**2).sqrt()
        edm = (
            (self.x0 - data**2 / (sigma**2 + data**2) * (self.x0 + sigma * self.noise))
            * (sigma**2 + data**2).sqrt()
            / (sigma * data)
        )
        return {
            "noise": self.noise,
            "v": alpha * self.noise - spread * self.x0,
            "x0": self.x0,
            "edm": edm,
            "velocity": self.noise - self.x0,
        }[self.prediction]


@pytest.mark.parametrize("prediction", ["noise", "v", "x0", "edm", "velocity"])
def test_a_perfect_network_gives_the_clean_image_and_no_loss(prediction):
    x0, noise = torch.randn(2, 5, 1, 4, 4, dtype=torch.float64)
    denoise = Denoiser(Known(prediction, x0, noise), prediction, sigma_data=0.5)
    x = x0 + SIGMAS[:, None, None, None] * noise
    assert (denoise(x, SIGMAS) - x0).abs().max() < 1e-9
    assert loss(denoise, x0, SIGMAS, noise, denoise.weight(SIGMAS, "plain")) < 1e-18


class Spy(nn.Module):
    """A network that remembers what it saw, and puts out zero."""

    def forward(self, x, c_noise, context):
        self.x = x
        self.c_noise = c_noise
        self.context = context
        return torch.zeros_like(x)


@pytest.mark.parametrize(
    "prediction, scale",
    [
        ("noise", 10**-0.5),
        ("v", 10**-0.5),
        ("x0", 10**-0.5),
        ("edm", 9.25**-0.5),
        ("velocity", 1 / 4),
    ],
)
def test_the_network_sees_the_state_of_its_paper(prediction, scale):
    spy = Spy()
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    Denoiser(spy, prediction)(x, 3.0)  # sigma_data is that of EDM, 1/2
    assert (spy.x - scale * x).abs().max() < 1e-12 and abs(
        spy.c_noise.item() - math.log(3) / 4
    ) < 1e-12
    Denoiser(spy, prediction, level="variance")(x, 3.0)
    assert abs(spy.c_noise.item() - 9 / 10) < 1e-12  # variance of the noise at unit total variance


@pytest.mark.parametrize("prediction", ["noise", "edm", "v", "velocity"])
def test_the_first_loss_is_one(prediction):
    """A fresh network puts out zero, and its target has unit variance.

    The data has the variance of sigma_data, for v unit variance.
    """
    data = {"edm": 0.5, "v": 1.0}.get(prediction, 0.5)
    x0 = data * torch.randn(64, 1, 32, 32, dtype=torch.float64)
    noise = torch.randn(64, 1, 32, 32, dtype=torch.float64)
    denoise = Denoiser(UNet(width=16).double(), prediction, sigma_data=data)
    sigma = torch.logspace(-2, 3, 64, dtype=torch.float64)
    first = loss(denoise, x0, sigma, noise, denoise.weight(sigma, "plain")).item()
    assert abs(first - (1 + data**2 if prediction == "velocity" else 1)) < 0.02
    if prediction == "noise":
        assert abs(first - (noise**2).mean()) < 1e-9


def test_loss_weights_are_those_of_the_papers():
    sigma = torch.tensor([0.2, 3.0], dtype=torch.float64)  # SNR = 25 and 1/9
    snr = 1 / sigma**2
    # an error in x0 is sigma times one in noise
    on_noise = Denoiser(Spy(), "noise").weight(sigma, "min_snr") * sigma**2
    assert (on_noise - snr.clamp(max=5) / snr).abs().max() < 1e-12  # min(SNR, 5) / SNR on the noise
    on_v = Denoiser(Spy(), "v").weight(sigma, "min_snr") * sigma**2 / (1 + sigma**2)
    assert (on_v - snr.clamp(max=5) / (snr + 1)).abs().max() < 1e-12  # min(SNR, 5) / (SNR + 1) on v
    weight = Denoiser(Spy(), "edm", sigma_data=0.5).weight(sigma, "edm")
    # Karras et al., table 1
    assert (weight - (sigma**2 + 0.25) / (0.5 * sigma) ** 2).abs().max() < 1e-12
    assert (
        Denoiser(Spy(), "edm", sigma_data=0.5).weight(sigma, "plain") - weight
    ).abs().max() < 1e-12
    clamped = Denoiser(Spy(), "v").weight(
        torch.tensor([0.2, 0.7, 3.0], dtype=torch.float64), "clamped_snr"
    )
    assert (clamped - torch.tensor([5, 1 / 0.49, 1])).abs().max() < 1e-6


def test_guidance_goes_from_the_null_context_through_the_given_one():
    class Told(nn.Module):
        def forward(self, x, sigma, context):
            # a dropped context gives -2
            return x * 0 + context.nan_to_num(-1.0).sum(1)[:, None, None, None]

    x = torch.zeros(3, 1, 2, 2)
    context = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 2.0]])
    for scale in (0.0, 1.0, 2.5):
        out = denoiser.guided(Told(), context, scale)(x, 1.0)[:, 0, 0, 0]
        assert (out - (-2 + scale * (context.sum(1) + 2))).abs().max() < 1e-6
    spy = Spy()
    denoiser.guided(lambda x, sigma, c: spy(x, sigma, c), context)(x, 1.0)
    assert spy.x.shape == x.shape  # a scale of 1, the default, costs one evaluation
    denoiser.guided(lambda x, sigma, c: spy(x, sigma, c), None, 1.0)(x, 1.0)
    assert spy.context is None


def test_guidance_acts_within_its_interval_alone():
    def told(x, sigma, context):
        return x * 0 + context.nan_to_num(-1.0).sum(1)[:, None, None, None]

    x = torch.zeros(1, 1, 2, 2)
    context = torch.tensor([[3.0]])
    led = denoiser.guided(told, context, 2.0, low=0.5, high=4.0)
    values = {sigma: led(x, sigma).unique().item() for sigma in (0.1, 0.5, 0.6, 4.0, 4.1)}
    assert values == {0.1: 3.0, 0.5: 3.0, 0.6: 7.0, 4.0: 7.0, 4.1: 3.0}


def test_a_worse_model_guides_to_a_narrower_gaussian():
    """Of Gaussians N(m, v) the guided score is that of N(m', v') with 1/v' = s/v + (1 - s)/w."""

    def gaussian(mean, variance):
        def denoise(x, sigma, context=None):
            assert context is None or context.shape == (3, 2)
            return (variance * x + sigma**2 * mean) / (variance + sigma**2)

        return denoise

    x = torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 1, 2, 2)
    scale, sigma, good, worse = 1.7, 0.6, (0.3, 0.5), (-0.1, 0.9)
    context = torch.zeros(3, 2)
    for known in (None, context):
        led = denoiser.guided(gaussian(*good), known, scale, guide=gaussian(*worse))(x, sigma)
        total = [v + sigma**2 for _, v in (good, worse)]
        precision = scale / total[0] + (1 - scale) / total[1]
        mean = (scale * good[0] / total[0] + (1 - scale) * worse[0] / total[1]) / precision
        assert (led - x - sigma**2 * precision * (mean - x)).abs().max() < 1e-12
    assert precision > 1 / total[0]  # narrower than the good model's
    plain = denoiser.guided(gaussian(*good), None, 1.0, guide=gaussian(*worse))(x, sigma)
    assert torch.equal(plain, gaussian(*good)(x, sigma))


# Float types --------------------------------------------------------------------------------------

EACH = [0.25, 2.0, 30.0]  # exact in half precision


@pytest.fixture(scope="module")
def nets():
    """The same denoiser with random weights in single and in double precision."""
    torch.manual_seed(0)
    single, double = (
        Denoiser(UNet(width=8, heads=2, groups=4, context=2), "edm").eval() for _ in range(2)
    )
    for p in single.parameters():
        nn.init.normal_(p, std=0.2)
    double.load_state_dict(single.state_dict())
    return single, double.double()


@pytest.mark.parametrize(
    "sigma",
    [
        2,
        2.0,
        np.float32(2),
        np.float64(2),
        torch.tensor(2),
        torch.tensor(2.0),
        torch.tensor(2.0).double(),
        torch.tensor(EACH).half(),
        torch.tensor(EACH),
        torch.tensor(EACH).double(),
    ],
    ids=lambda s: f"{type(s).__name__} {getattr(s, 'dtype', '')}",
)
@pytest.mark.parametrize(
    "dtype, error",
    [
        (torch.float64, 1e-5),
        (torch.float32, 1e-5),
        (torch.float16, 1e-3),
        (torch.bfloat16, 1e-2),
    ],
)
def test_a_denoiser_takes_images_and_noise_levels_of_any_float_type(nets, sigma, dtype, error):
    single, double = nets
    levels = torch.as_tensor(sigma).double().expand(3)
    x = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    x = ((1 + levels[:, None, None, None] ** 2).sqrt() * x).to(dtype)
    context = torch.randn(3, 2, generator=torch.Generator().manual_seed(2)).to(dtype)
    with torch.no_grad():
        exact = double(x.double(), levels, context.double())
        for net in (single, double):
            found = net(x, sigma, context)
            assert found.dtype == dtype and found.shape == x.shape
            assert (found.double() - exact).abs().max() < error * exact.abs().max()


def test_a_large_noise_level_does_not_overflow_in_half_precision():
    """sigma^2 = 250,000 is above the largest half-precision number."""
    x = torch.full((1, 1, 4, 4), 500.0).half()
    found = Denoiser(Spy(), "edm", sigma_data=0.5)(x, 500.0)
    assert (found.float() - 0.25 / (0.25 + 500**2) * 500).abs().max() < 1e-5


# Noise --------------------------------------------------------------------------------------------


def images(n, dtype=np.float32):
    return np.random.default_rng(0).normal(0.3, 0.5, size=(n, 1, 16, 16)).astype(dtype)


def test_added_noise_is_standard_normal_times_sigma():
    clean = images(64)
    noisy = add_noise(clean, 3.0, seed=1)
    assert noisy.dtype == np.float32 and noisy.shape == clean.shape
    assert scipy.stats.kstest(((noisy - clean) / 3).ravel(), "norm").pvalue > 1e-3


def test_the_exact_denoiser_of_a_gaussian_errs_on_noisy_images_by_the_posterior_variance():
    """Images have independent pixels N(m, s^2), with m = 0.3 and s = 0.5.

    The posterior variance is s^2 sigma^2 / (s^2 + sigma^2).
    """
    clean = images(256, float)
    for sigma in (0.1, 0.5, 4.0):
        x = add_noise(clean, sigma, seed=2)
        mean = (0.25 * x + sigma**2 * 0.3) / (0.25 + sigma**2)
        expected = 0.25 * sigma**2 / (0.25 + sigma**2)
        assert abs(((mean - clean) ** 2).mean() / expected - 1) < 5 * (2 / clean.size) ** 0.5


def test_the_noise_of_an_image_depends_on_its_number_and_the_seed_alone():
    clean = images(5)
    noisy = add_noise(clean, 0.7, seed=3)
    assert np.array_equal(add_noise(clean[:2], 0.7, seed=3), noisy[:2])
    assert np.array_equal(add_noise(clean, 0.7, seed=3), noisy)
    assert not np.array_equal(add_noise(clean, 0.7, seed=4), noisy)
    noise = (noisy - clean) / 0.7
    assert np.abs(noise[0] - noise[1]).max() > 0.1


def test_every_image_may_have_a_noise_level_of_its_own():
    clean = images(3)
    each = np.array([0.0, 0.5, 2.0])
    noisy = add_noise(clean, each)
    assert np.array_equal(noisy[0], clean[0])
    for i in (1, 2):
        assert np.allclose(noisy[i], add_noise(clean, each[i])[i], atol=1e-6)


def test_noisy_images_are_of_the_kind_of_the_clean_ones():
    clean = images(2)
    noisy = add_noise(clean, 1.5)
    tensor = add_noise(torch.from_numpy(clean), torch.tensor(1.5).double())
    assert isinstance(noisy, np.ndarray) and torch.equal(tensor, torch.from_numpy(noisy))
    for dtype, error in ((np.float64, 1e-6), (np.float16, 4e-3)):
        other = add_noise(clean.astype(dtype), 1.5)
        assert other.dtype == dtype and np.abs(other - noisy).max() < error
    whole = add_noise(np.zeros((2, 1, 16, 16), np.uint8), 1.5)
    assert whole.dtype == np.float32 and whole.std() > 1


@pytest.mark.parametrize(
    "sigma, said",
    [
        ([1.0, 2.0], r"expected a number or 3 of them, found shape \(2,\)"),
        (-1.0, "expected noise levels of 0 or more"),
        ([1.0, math.nan, 1.0], "expected noise levels of 0 or more"),
    ],
)
def test_noise_levels_that_are_none_are_refused(sigma, said):
    with pytest.raises(InputError, match=said):
        add_noise(images(3), sigma)
