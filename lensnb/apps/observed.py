"""The command `lensnb posterior`: files and numbers to an observation, draws to a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lensnb import io, operators, posterior, pretrained
from lensnb.datasets.arrays import open_array
from lensnb.errors import InputError


@dataclass(frozen=True)
class Instrument:
    """What the user says of the instrument; None where nothing is said.

    mask, psf : files; fwhm : of a Gaussian PSF, and factor : of larger pixels, in pixels of the
    model; noise : a number or a file; exposure : counts for one unit of brightness
    """

    mask: Path | None = None
    noise: str | None = None
    exposure: float | None = None
    psf: Path | None = None
    fwhm: float | None = None
    factor: int | None = None

    def operator(self) -> operators.Operator:
        """The image is blurred first, then averaged over larger pixels."""
        if self.psf and self.fwhm is not None:
            raise InputError("give --psf or --fwhm, and not both")
        parts = []
        if self.psf:
            parts.append(operators.blur(_array(self.psf)))
        if self.fwhm is not None:
            parts.append(operators.blur(operators.gaussian_psf(self.fwhm)))
        if self.factor is not None:
            parts.append(operators.downsample(self.factor))
        return operators.chain(*parts)

    def deviation(self) -> Any:
        """The noise as `posterior.draw` takes it."""
        if self.noise is None:
            raise InputError(
                "--noise is missing: give the standard deviation of the noise in the units of the "
                "data, as a number or a .npy map"
            )
        try:
            noise: Any = float(self.noise)
        except ValueError:
            noise = _array(Path(self.noise))
        if self.exposure is None:
            return noise
        if not isinstance(noise, float):
            raise InputError("--exposure goes with one number for --noise, that of the sky")
        return operators.poisson(noise, self.exposure)


def _array(path: Path) -> np.ndarray:
    """The numbers in a .npy file; raises InputError for another file."""
    if not io.locate(path).is_file():
        raise InputError(f"{path}: no such file")
    array: np.ndarray = np.array(open_array(io.locate(path), str(path))[0])
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path}: found {array.dtype}, expected real numbers")
    return array


def sample(
    data: Path,
    instrument: Instrument,
    name: str,
    n: int,
    output: Path,
    method: str,
    steps: int,
    seed: int,
) -> None:
    """Draw n images of the posterior of the data in a .npy file, and write them to `output`.

    name : of the model, as `pretrained.load` takes it; the other arguments as in `posterior.draw`
    """
    if output.suffix != ".npy":
        raise InputError(f"{output}: expected a name that ends in .npy")
    if not output.absolute().parent.is_dir():
        raise InputError(f"{output.absolute().parent}: no such folder; make it first")
    made = posterior.draw(
        pretrained.load(name),
        _array(data),
        instrument.operator(),
        instrument.deviation(),
        n=n,
        method=method,
        steps=steps,
        seed=seed,
        seen=_array(instrument.mask) if instrument.mask else None,
    )
    io.write_images(output, made.images.shape, [made.images.reshape(-1, *made.images.shape[-3:])])
    size = " x ".join(map(str, made.images.shape))
    print(f"{output}: {size}, float32; chi2 a datum {made.chi2.mean():.3f} (about 1 is right)")
