"""The real images of a comparison, and what is measured on them once for all methods of a run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from lensnb.datasets import conditions
from lensnb.datasets.dataset import Dataset, comparison_rows
from lensnb.datasets.dataset import Rows as Images
from lensnb.devices import find_device, with_doubles
from lensnb.errors import InputError
from lensnb.evaluation.kept_rows import NOTHING, Kept, digest_of
from lensnb.evaluation.measures import LEAST, MEASURES
from lensnb.evaluation.rows import Fitted, Reference, Rows, all_rows, fit, rows_of
from lensnb.evaluation.workers import workers_for
from lensnb.recipes.recipe import Params

READ = "read"  # the key of the rows that hold what LensNet reads

Asked = Mapping[str, np.ndarray]  # what images were asked to be: column -> (N,)
Classes = tuple[np.ndarray, np.ndarray, np.ndarray]  # of generated, reference and other images
Tree = dict[str, Any]
T = TypeVar("T")


class RealRows:
    """The reference images and other real ones, measured once.

    The reference images fix what must not depend on the generated ones: units, bins and levels.
    Networks run on the recipe's device. Other work on many images is shared by worker processes.

    chosen : rows of the dataset, (reference, others); None: `comparison_rows` picks them
    kept : what earlier judges measured on the same real images is read there, and the rest written
    Raises InputError if there are fewer than LEAST images on a side.
    """

    def __init__(
        self,
        params: Params,
        dataset: Dataset,
        chosen: tuple[np.ndarray, np.ndarray] | None = None,
        kept: Kept = NOTHING,
    ) -> None:
        self.settings = params.evaluate
        self.seed = params.seed
        self.dataset = dataset
        self.context = conditions.resolve(params.model.context, dataset)
        most = min(params.evaluate.n, params.sample.n)
        self.held, self.other = chosen or comparison_rows(dataset, most, params.data_seed)
        self.n = len(self.held)
        if self.n < LEAST:
            raise InputError(
                f"evaluate: {self.n} images on each side, and {LEAST} are needed; bring more "
                "images, or raise data.holdout, evaluate.n or sample.n"
            )
        self.device = with_doubles(find_device(params.device))
        self.workers = workers_for(self.n, params.evaluate.workers)
        self.reference = Reference(
            dataset.images[self.held], params.evaluate.inception, self.device, self.workers
        )
        self.measures = {
            name: measure
            for name, measure in MEASURES.items()
            if measure.rows is not None and measure.available(self.reference)
        }
        self.makers = self._fitted_rows()
        self.distances = {
            name: fit(measure.distance, self.reference) for name, measure in self.measures.items()
        }
        self.kept = kept.of(
            (self.reference.images, dataset.part(self.other)), params, self.device.type
        )
        self.real, self.others = self._rows_of_real()
        self._floors: dict[tuple[Any, ...], Any] = {}
        self._last: tuple[Any, dict[str, np.ndarray]] | None = None

    def _fitted_rows(self) -> dict[str, Rows]:
        """Measure -> function from images to rows; measures of the same rows share the function."""
        distinct = dict.fromkeys(measure.rows for measure in self.measures.values())
        fitted = {rows: fit(rows, self.reference) for rows in distinct}
        return {name: fitted[measure.rows] for name, measure in self.measures.items()}

    def rows(self, images: Any, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The rows (N, d) of images (N, C, H, W) for each measure; shared rows are one array.

        names : of these measures alone.

        Beside the measures, READ holds what LensNet reads: the class, and lensnet.READS.
        """
        networks = {READ}
        for name, measure in self.measures.items():
            if isinstance(measure.rows, Fitted) and measure.rows.on_device:
                networks.add(name)
        makers = self.makers | {READ: self.reference.reader.table}
        wanted = {name: makers[name] for name in (makers if names is None else names)}
        return all_rows(wanted, networks, images, self.reference)

    def _rows_of_made(self, images: Any) -> dict[str, np.ndarray]:
        """The rows of generated images; the last ones are kept, because several parts ask."""
        if self._last is None or self._last[0] is not images:
            self._last = images, self.rows(images)
        return self._last[1]

    def _rows_of_real(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The rows of the reference and of the other images, kept ones where there are any."""
        makers = self.makers | {READ: self.reference.reader.table}
        first = {make: name for name, make in reversed(makers.items())}  # of those that share it
        names = [first[make] for make in makers.values()]
        lasting = {name for name in names if name == READ or is_ours(self.measures[name])}
        sets = {"real": self.reference.images, "others": self.dataset.part(self.other)}
        found = []
        for whose, images in sets.items():
            read = {name: self.kept.read(f"{whose}-{name}") for name in lasting}
            known = {name: array for name, array in read.items() if array is not None}
            missing = [name for name in dict.fromkeys(names) if name not in known]
            fresh = self.rows(images, missing)
            for name in lasting & fresh.keys():
                self.kept.write(f"{whose}-{name}", fresh[name])
            known |= fresh
            found.append({name: known[first[make]] for name, make in makers.items()})
        return found[0], found[1]

    def features_of(self, images: Any) -> np.ndarray:
        """LensNet's features (m, d) of real images; those measured before are not read again."""
        name = "frechet_lensnet"
        make, who = self.makers[name], self.reference.by_networks
        numbers = numbers_in(self.dataset, images)
        if numbers is None:
            return rows_of([make], images, *who)[0]
        place = np.full(len(self.dataset.images), -1)
        measured = np.concatenate([self.held, self.other])
        place[measured] = np.arange(len(measured))
        found = np.concatenate([self.real[name], self.others[name]])[place[numbers]]
        fresh = np.flatnonzero(place[numbers] < 0)
        if len(fresh):
            found[fresh] = rows_of([make], self.dataset.part(numbers[fresh]), *who)[0]
        return found

    def _once(
        self, make: Callable[[], T], name: str, most: int, labels: Classes | None = None
    ) -> T:
        """What `make` finds of real images with these classes, found once for all methods."""
        classes = () if labels is None else tuple(part.tobytes() for part in labels[1:])
        key = (name, most, *classes)
        if key not in self._floors:
            lasts = name in self.measures and is_ours(self.measures[name])
            told = f"floor-{name}-{most}-{digest_of(*classes)}"
            self._floors[key] = self.kept.once(told, make) if lasts else make()
        found: T = self._floors[key]
        return found


def numbers_in(dataset: Dataset, images: Any) -> np.ndarray | None:
    """Which images of the dataset these are, (m,); None for images from elsewhere."""
    if not isinstance(images, Images):
        return None
    if images.images is dataset.images:
        return images.rows
    numbers = numbers_in(dataset, images.images)
    return None if numbers is None else numbers[images.rows]


def is_ours(measure: Any) -> bool:
    """Whether a measure's code belongs to this package, whose digest tells when it has changed."""
    parts = (measure.rows, measure.distance)
    made = [part.make if isinstance(part, Fitted) else part for part in parts]
    names = [getattr(getattr(part, "func", part), "__module__", "") for part in made]
    return all(name.startswith("lensnb.") for name in names)
