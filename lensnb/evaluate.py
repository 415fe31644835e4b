"""The evaluation of one method: its images against the held-out ones, every number with error and floor."""

import numpy as np

from lensnb import features, metrics, physics, store
from lensnb.sampler import derived_seed

EVALUATE = 21       # purpose of derived seeds


def rulers(reference):
    """The metrics of a comparison: name -> (rows of images, distance of two sets of rows, unit).

    Everything that must be fixed beforehand (units of the features, bins) is taken from the
    reference images (n, C, H, W).
    """
    units, edges = features.Units(reference), physics.intensity_edges(reference)
    net, std = features.load(), float(reference.std(dtype=float))
    spread = features.features(reference, units, net).std(axis=0)
    alive = spread > 1e-3 * spread.max()        # a dead feature divided by its scatter would outweigh all others
    return {"fld": (lambda x: features.features(x, units, net)[:, alive] / spread[alive], metrics.frechet,
                    "standard deviations of a real feature, squared"),
            "intensity": (lambda x: physics.cumulative_shares(x, edges),
                          lambda a, b: metrics.wasserstein(a, b, np.diff(edges)) / std, "pixel standard deviations"),
            "spectrum": (physics.log_power, metrics.mean_distance, "dex"),
            "profile": (lambda x: physics.radial_profile(x) / std, metrics.mean_distance, "pixel standard deviations")}


def curves(images, pixel_scale):
    """Mean power spectrum and radial profile with the standard error of the mean, as lists."""
    size = images.shape[-1]
    root = np.sqrt(len(images))
    power, profile = physics.log_power(images), physics.radial_profile(images)
    return {"frequency": physics.frequencies(size, pixel_scale).tolist(),
            "log_power": power.mean(0).tolist(), "log_power_error": (power.std(0, ddof=1) / root).tolist(),
            "radius": ((np.arange(size // 2) + 0.5) * (pixel_scale or 1)).tolist(),
            "profile": profile.mean(0).tolist(), "profile_error": (profile.std(0, ddof=1) / root).tolist()}


def choose(dataset, settings, available, seed):
    """Real images of a comparison: n held-out ones (the reference) and up to 4 n training ones (for the floor)."""
    n = min(settings.n, available, len(dataset.heldout), len(dataset.train) // 2)
    rng = np.random.default_rng(derived_seed(seed, EVALUATE))
    some = lambda index, count: dataset.images[rng.permutation(index)[:count]]  # shuffled: files may be ordered by class
    return some(dataset.heldout, n), some(dataset.train, 4 * n)


def evaluate(params, name, dataset, images, folder):
    """Judge the images (n, C, H, W) of method `name`; writes metrics.json and curves.json to `folder`.

    Both sides have the same n: the least of evaluate.n, the images drawn and the held-out ones.
    Returns the metrics.
    """
    settings = params.evaluate
    reference, others = choose(dataset, settings, len(images), params.seed)
    images = np.asarray(images[:len(reference)])
    results = {}
    for key, (rows, distance, unit) in rulers(reference).items():
        generated, real, training = rows(images), rows(reference), rows(others)
        results[key] = metrics.measure(distance, generated, real, training, unit, settings.bootstrap,
                                       settings.floors, params.seed)
        results[key]["to_training"] = distance(generated, training[:len(generated)])
    store.write_json(folder / "metrics.json", {"method": name, "n": len(images), "lensnet": store.LENSNET, "metrics": results})
    store.write_json(folder / "curves.json", {"pixel_scale": dataset.pixel_scale, "generated": curves(images, dataset.pixel_scale),
                                              "real": curves(reference, dataset.pixel_scale)})
    return results
