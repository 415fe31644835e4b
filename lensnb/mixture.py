"""Gaussian mixtures, of which denoiser, density and posteriors are known in closed form.

They are the priors that the samplers of `posterior` and the densities of `likelihood` are proved
on. A point is an image (B, C, H, W) with d = C H W pixels; everything is float64.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lensnb.errors import InputError


class Mixture:
    """K Gaussians over images of one shape: weights (K,), means (K, d), covariances (K, d, d).

    Raises InputError for shapes that do not agree and for a covariance that is not positive.
    """

    def __init__(
        self, weights: Tensor, means: Tensor, covariances: Tensor, shape: Sequence[int]
    ) -> None:
        self.weights = torch.as_tensor(weights).double()
        self.means = torch.as_tensor(means).double()
        self.covariances = torch.as_tensor(covariances).double()
        self.shape = tuple(shape)
        count, d = self.means.shape
        agree = self.weights.shape == (count,) and self.covariances.shape == (count, d, d)
        if not agree or math.prod(self.shape) != d:
            raise InputError(
                f"mixture: {count} means of {d} pixels do not fit to weights "
                f"{tuple(self.weights.shape)}, covariances {tuple(self.covariances.shape)} and "
                f"images {self.shape}"
            )
        if torch.linalg.cholesky_ex(self.covariances).info.any():
            raise InputError("mixture: a covariance is not positive definite")

    def _widened(self, sigma: float) -> Tensor:
        """The covariances (K, d, d) of images with noise of the level sigma."""
        return self.covariances + sigma**2 * torch.eye(self.means.shape[1]).double()

    def _log_parts(self, x: Tensor, sigma: float) -> Tensor:
        """log(weight times density) of each Gaussian at rows x (B, d): (B, K)."""
        wide = torch.distributions.MultivariateNormal(self.means, self._widened(sigma))
        log_parts: Tensor = wide.log_prob(x[:, None]) + self.weights.log()
        return log_parts

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """The mean of the clean images, given noisy ones x (B, *shape) at noise level sigma."""
        rows = x.flatten(1).double()
        share = self._log_parts(rows, sigma).softmax(1)  # (B, K)
        off = (rows[:, None] - self.means)[..., None]  # (B, K, d, 1)
        gain = self.covariances @ torch.linalg.solve(self._widened(sigma), off)
        clean: Tensor = (share[..., None] * (self.means + gain[..., 0])).sum(1)
        return clean.to(x.dtype).view_as(x)

    def log_density(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """The log-density (B,) of images x (B, *shape) with noise of the level sigma, in nats."""
        return self._log_parts(x.flatten(1).double(), sigma).logsumexp(1)

    def posterior(self, matrix: Tensor, y: Tensor, variance: Tensor) -> "Mixture":
        """The mixture that x follows given y (m,) = matrix (m, d) x + noise of `variance` (m,)."""
        a = matrix.double()
        expected = self.means @ a.T  # (K, m)
        spread = a @ self.covariances @ a.T + torch.diag(variance.double())  # (K, m, m)
        gain = torch.linalg.solve(spread, a @ self.covariances).mT  # (K, d, m)
        log_evidence = torch.distributions.MultivariateNormal(expected, spread).log_prob(y.double())
        weights = (self.weights.log() + log_evidence).softmax(0)
        means = self.means + (gain @ (y.double() - expected)[..., None])[..., 0]
        covariances = self.covariances - gain @ a @ self.covariances
        return Mixture(weights, means, (covariances + covariances.mT) / 2, self.shape)

    def mean(self) -> Tensor:
        """The mean of the mixture (d,)."""
        return self.weights @ self.means

    def covariance(self) -> Tensor:
        """The covariance of the mixture (d, d)."""
        off = self.means - self.mean()
        within = (self.weights[:, None, None] * self.covariances).sum(0)
        return within + (self.weights[:, None] * off).T @ off

    def draw(self, n: int, seed: int = 0) -> Tensor:
        """n images (n, *shape) of the mixture."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], 1, generator=generator, dtype=torch.float64)
        made: Tensor = (
            self.means[which] + (torch.linalg.cholesky(self.covariances)[which] @ z)[..., 0]
        )
        return made.view(n, *self.shape)
