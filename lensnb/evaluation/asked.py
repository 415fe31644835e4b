"""Do images show what was asked for? Readings against requests, and how often they are covered."""

import numpy as np

from lensnb.datasets import conditions
from lensnb.evaluation import coverage, image_stats, lensnet, obedience, regressors
from lensnb.evaluation.real_rows import READ, Asked, RealRows, Tree
from lensnb.evaluation.rows import rows_of


class AskedFor(RealRows):
    """Real images, and what generated ones were asked to be."""

    def obedience(self, images: np.ndarray, asked: Asked) -> Tree | None:
        """What was asked for against what LensNet reads, and the same for real images.

        Returns generated and real -> `obedience.compared`; None if nothing can be compared.
        """
        told = {name: column[: self.n] for name, column in asked.items()}
        known = obedience.known_of(self.dataset, self.held)
        both = {
            "generated": (self._rows_of_made(images), told),
            "real": (self.real, known),
        }
        found = {
            whose: obedience.compared(lensnet.columns(rows[READ]), columns, self.dataset, asked)
            for whose, (rows, columns) in both.items()
        }
        if not isinstance(self.context, str):
            found = obedience.without_the_unread(found, known)
        return found if found["real"] else None

    def obeyed(self, images: np.ndarray, asked: Asked) -> Tree:
        """What was asked for against what is read off the images, for every column asked for.

        Returns obedience: generated and real -> column -> numbers, if anything is read; and
        readers: column -> who reads it, with its skill or the reason why nothing is said.
        """
        found = self.obedience(images, asked) or {"generated": {}, "real": {}}
        readers: Tree = dict.fromkeys(found["real"], {"reader": "LensNet"})
        rest = [name for name in asked if name not in readers]
        for name, reading in self._regressed(images, asked, rest).items():
            reader = "regressor" if reading.found else None
            readers[name] = {"reader": reader, "skill": reading.skill, "why": reading.why}
            for whose, numbers in reading.found.items():
                found[whose][name] = numbers
        if not found["real"]:
            return {"readers": readers}
        covered = self.covered(images, asked)
        told: Tree = {"obedience": found, "readers": readers}
        return told | ({"coverage": covered} if covered else {})

    def covered(self, images: np.ndarray, asked: Asked) -> Tree | None:
        """How often real readings cover those of images that were asked to be alike.

        Returns generated and real -> `coverage.of_readings`; None if fewer than
        coverage.LEAST_KNOWN training images have known values, or LensNet reads nothing asked for.
        """
        both = self.obedience(images, asked) or {"real": {}}
        names = [name for name, told in both["real"].items() if "bias" in told]
        if not names:
            return None
        pool = coverage.Readings.of(
            self.others, obedience.known_of(self.dataset, self.other), names
        )
        if len(pool.told) < coverage.LEAST_KNOWN:
            return None
        told = {name: column[: self.n] for name, column in asked.items()}
        known = obedience.known_of(self.dataset, self.held)
        sides = {
            "generated": coverage.Readings.of(self._rows_of_made(images), told, names),
            "real": coverage.Readings.of(self.real, known, names),
        }
        return {
            whose: coverage.of_readings(side, pool, names, self.seed)
            for whose, side in sides.items()
        }

    def _regressed(
        self, images: np.ndarray, asked: Asked, names: list[str]
    ) -> dict[str, regressors.Reading]:
        """What regressors read of these columns, see `regressors.read`."""
        if not names:
            return {}
        known = conditions.table(self.context, self.dataset)
        columns = conditions.columns(self.context, self.dataset)
        rows = self._once(self._features_of_real, "regressors", self.n)
        made = self._rows_of_made(images)["frechet_lensnet"]
        bands = rows_of((image_stats.bands,), images, self.workers)[0]
        rows = rows | {"generated": np.concatenate([made, bands], axis=1)}
        parts = {"train": self.other, "real": self.held}
        return {
            name: regressors.read(
                rows,
                {w: known[name][part] for w, part in parts.items()}
                | {"generated": asked[name][: self.n]},
                isinstance(columns[name], conditions.Number),
            )
            for name in names
            if name in known
        }

    def _features_of_real(self) -> dict[str, np.ndarray]:
        """LensNet's features and the brightness of each band, of training and held-out images."""
        real = {"train": self.dataset.part(self.other), "real": self.reference.images}
        features = {"train": self.others, "real": self.real}
        return {
            whose: np.concatenate(
                [
                    features[whose]["frechet_lensnet"],
                    rows_of((image_stats.bands,), images, self.workers)[0],
                ],
                axis=1,
            )
            for whose, images in real.items()
        }
