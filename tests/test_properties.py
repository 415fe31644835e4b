"""What holds for any sane input.

Of scaling, choice of images, schedules, samplers, distances and recipes.
"""

import math
import shlex
import typing

import numpy as np
import pytest
import scipy.stats
import torch
import yaml
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lensnb import metrics, sampler, schedule
from lensnb.datasets import dataset as dataset_module
from lensnb.datasets import sources
from lensnb.datasets.dataset import KINDS, Scaling, comparison_rows, split
from lensnb.denoiser import PREDICTIONS, WEIGHTINGS, Denoiser
from lensnb.evaluation import morphology
from lensnb.recipes.recipe import Params, load_recipe
from lensnb.recipes.schema import Diffusion, Section

SEEDS = st.integers(0, 2**31 - 1)


def examples(n):
    """The same n cases in every run."""
    return settings(
        max_examples=n,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.filter_too_much],
    )


# ---- any valid recipe, from the schema itself

# for keys where freely drawn values hardly ever agree with other keys, or large ones cost minutes
GIVEN = {
    "size": st.integers(1, 64).map(lambda k: 16 * k),
    "width": st.integers(1, 20).map(lambda k: 8 * k),
    "timesteps": st.integers(2, 3000),
    "steps": st.integers(1, 1000),
    "sigma_min": st.floats(1e-6, 1),
    "sigma_max": st.floats(0.5, 1e4),
}


def values(annotation, bounds=()):
    """Values of a type of the schema within its bounds."""
    origin = typing.get_origin(annotation)
    inner = typing.get_args(annotation)
    if origin is typing.Annotated:
        return values(
            inner[0], [bound for note in inner[1:] for bound in getattr(note, "metadata", [note])]
        )
    if origin is typing.Literal:
        return st.sampled_from(inner)
    if origin is tuple:
        return (
            st.lists(values(inner[0]), max_size=4)
            if inner[1] is ...
            else st.tuples(*map(values, inner)).map(list)
        )
    if origin is dict:
        return st.dictionaries(values(inner[0]), values(inner[1]), min_size=1, max_size=3)
    if inner:  # X | None
        return st.one_of(*map(values, inner))
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return trees(annotation)
    pattern = next((bound.pattern for bound in bounds if getattr(bound, "pattern", None)), None)
    if pattern:
        return st.from_regex(pattern.removesuffix("$"), fullmatch=True)
    drawn = st.from_type(
        typing.Annotated[(annotation, *bounds)] if bounds and annotation is not dict else annotation
    )
    return drawn.filter(math.isfinite) if annotation is float else drawn


def trees(section):
    """Mappings with some keys of a section."""
    fields = {
        name: GIVEN[name] if name in GIVEN else values(f.annotation, f.metadata)
        for name, f in section.model_fields.items()
    }
    chosen = st.lists(st.sampled_from(list(fields)), unique=True, max_size=4)
    return chosen.flatmap(
        lambda names: st.fixed_dictionaries({name: fields[name] for name in names})
    )


def valid(section):
    """A section, or the whole of a recipe, with some keys as in `trees` and the rest by default."""

    def made(tree):
        try:
            return section.model_validate(tree)
        except ValidationError:
            reject()

    return trees(section).map(made)


@examples(150)
@given(recipe=valid(Params))
def test_any_recipe_is_the_same_from_a_file_and_from_overrides(recipe, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    # Escaped, because PyYAML's own reader loses a raw next-line character (U+0085).
    (folder / "file.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    (folder / "empty.yaml").write_text("")
    assert load_recipe(folder / "file.yaml") == recipe
    changed = recipe.model_dump(mode="json", exclude_defaults=True)

    def flow(value):
        return yaml.safe_dump([value], default_flow_style=True, width=math.inf)[1:-2]  # as one line

    pairs = [
        (f"{key}.{leaf}", inner)
        for key, value in changed.items()
        if isinstance(value, dict)
        for leaf, inner in value.items()
    ]
    pairs += [(key, value) for key, value in changed.items() if not isinstance(value, dict)]
    overrides = " ".join(shlex.quote(f"{key}={flow(value)}") for key, value in pairs)
    assert load_recipe(folder / "empty.yaml", overrides) == recipe


# ---- scaling and the choice of images


@examples(60)
@given(
    kind=st.sampled_from(KINDS),
    exponent=st.integers(-20, 20),
    seed=SEEDS,
    tail=st.floats(0.05, 3),
    n=st.integers(2, 30),
)
def test_scaling_knows_no_unit_and_brings_back_what_models_draw(kind, exponent, seed, tail, n):
    """Light of any tail in any unit.

    Models draw up to one range of the training images beyond its ends.
    """
    light = np.random.default_rng(seed).gamma(tail, size=(n, 1, 8, 8)).astype(np.float32)
    if kind == "minmax":
        exponent = 0
        light = light / light.max()
    unit = 10.0**exponent
    scaling = Scaling.fit(light, kind)
    other = Scaling.fit((light * unit).astype(np.float32), kind)
    seen = scaling.forward(light.astype(float))
    np.testing.assert_allclose(
        other.forward(light.astype(float) * unit), seen, rtol=0, atol=1e-5 * np.abs(seen).max()
    )
    order = np.argsort(light, axis=None)
    assert (np.diff(seen.ravel()[order]) >= 0).all() and seen.std() > 0
    span = scaling.high - scaling.low
    drawn = torch.linspace(scaling.low - span, scaling.high + span, 400)
    back = other.inverse(drawn)
    assert torch.isfinite(back).all() and back.dtype == torch.float32 and (back.diff() >= 0).all()
    assert (other.forward(back.double()) - drawn).abs().max() < 1e-5 * (
        1 + drawn.abs().max() + abs(other.offset / other.scale)
    )


@examples(80)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6), n=st.integers(1, 200), seed=SEEDS
)
def test_a_part_of_the_images_has_every_class_by_its_share(sizes, n, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    total = len(labels)
    n = min(n, len(labels))
    kept = sources._subset(total, n, labels, seed)
    assert len(kept) == n and (np.diff(kept) > 0).all() and 0 <= kept[0] <= kept[-1] < total
    # each share is rounded to a neighbouring whole number
    assert (
        np.abs(np.bincount(labels[kept], minlength=len(sizes)) - n * np.array(sizes) / total).max()
        < 1
    )
    assert (sources._subset(total, n, labels, seed) == kept).all()


@examples(60)
@given(n=st.integers(4, 3000), holdout=st.floats(0.01, 0.5), most=st.integers(1, 1500), seed=SEEDS)
def test_images_to_compare_are_held_out_ones_and_four_times_as_many_others(n, holdout, most, seed):
    dataset = type(
        "Split", (), dict(zip(("train", "heldout"), split(n, holdout, seed), strict=True))
    )
    reference, others = comparison_rows(dataset, most, seed)
    spared = dataset_module.monitoring_rows(dataset, seed)
    assert len(spared) == (0 if len(dataset.heldout) < 256 else min(256, len(dataset.heldout) // 4))
    assert (
        len(reference) == min(most, len(dataset.heldout) - len(spared), len(dataset.train) // 2) > 0
    )
    assert {*spared} <= {*dataset.heldout} and not {*spared} & {*reference}
    assert len(others) == min(4 * len(reference), len(dataset.train)) > len(reference)
    assert len({*reference, *others}) == len(reference) + len(others)
    assert {*reference} <= {*dataset.heldout} and {*others} <= {*dataset.train}
    assert all(
        (a == b).all()
        for a, b in zip(comparison_rows(dataset, most, seed), (reference, others), strict=True)
    )


# ---- schedules


@examples(200)
@given(section=valid(Diffusion), steps=st.integers(1, 100), seed=SEEDS)
def test_any_schedule_rises_and_trains_and_samples_on_finite_levels(section, steps, seed):
    # levels that double precision tells apart
    assume(section.sigma_max > 1.001 * section.sigma_min and section.edm_std > 1e-9)
    made = schedule.from_params(section)
    levels = made.at(torch.linspace(0, 1, 301, dtype=torch.float64))
    assert (
        torch.isfinite(levels).all()
        and (levels > 0).all()
        and (levels.diff() >= 0).all()
        and levels[-1] > levels[0]
    )
    sigmas = made.sample_sigmas(min(steps, len(made)) if section.discrete else steps)
    assert (sigmas.diff() < 0).all() and sigmas[-1] == 0 and torch.isfinite(sigmas).all()
    if section.discrete:
        assert (
            (made.alpha_bar > 0).all()
            and (made.alpha_bar <= 1).all()
            and (made.alpha_bar.diff() < 0).all()
        )
        assert (made.sigmas.diff() > 0).all() and ((made.betas > 0) & (made.betas < 1)).all()
    drawn = torch.cat(
        [
            made.train_sigmas(16, torch.Generator().manual_seed(seed)),
            levels.float(),
            sigmas[:-1].float(),
        ]
    )
    net = Denoiser(torch.nn.Identity(), section.prediction, 0.5, section.level)
    for numbers in (
        *PREDICTIONS[section.prediction](drawn, 0.5),
        net.level(drawn),
        *(net.weight(drawn, name) for name in WEIGHTINGS),
    ):
        assert torch.isfinite(numbers).all()  # in single precision, as training sees them
    assert all((net.weight(drawn, name) > 0).all() for name in WEIGHTINGS)


# ---- samplers


def shrinking(x, sigma):
    """A denoiser of additions and products alone, which give the same bits in any batch."""
    return (x / (1 + sigma) + 0.1).clamp(-1, 1)


@pytest.mark.parametrize("name", list(sampler.SAMPLERS))
@examples(25)
@given(
    steps=st.integers(1, 12),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    low=st.floats(1e-3, 0.5),
    high=st.floats(1, 1e4),
    rho=st.floats(1, 1000),
    pick=st.randoms(use_true_random=False),
    seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5, unique=True),
)
def test_any_image_depends_on_its_seed_alone(name, steps, shape, low, high, rho, seeds, pick):
    sigmas = torch.cat([schedule.karras(steps, low, high, rho), torch.zeros(1)])

    def drawn(seeds, dtype=torch.float32):
        noise = sampler.ImageNoise(seeds)
        states = list(
            sampler.SAMPLERS[name].run(
                shrinking, sigmas, sampler.start(sigmas, shape, noise, dtype), noise
            )
        )
        assert len(states) == steps and all(
            s.x.shape == s.x0.shape == (len(seeds), *shape) and s.x.dtype == dtype for s in states
        )
        assert all(torch.isfinite(s.x).all() for s in states)
        return states[-1].x

    together = drawn(seeds)
    order = pick.sample(range(len(seeds)), pick.randint(1, len(seeds)))
    assert torch.equal(drawn([seeds[i] for i in order]), together[order])
    assert (
        torch.equal(drawn(seeds), together) and drawn(seeds, torch.float64).dtype == torch.float64
    )


# ---- distances


def two_sets(seed, least=8):
    """Rows of any number, shift, spread and correlation, sometimes with copies."""
    rng = np.random.default_rng(seed)
    d = rng.integers(1, 12)

    def rows():
        return rng.normal(size=(rng.integers(least, 40), d)) @ rng.normal(size=(d, d)) + rng.normal(
            size=d
        )

    a = rows()
    b = rows()
    return (a[rng.integers(len(a), size=len(a))] if rng.random() < 0.3 else a), b, rng


@examples(60)
@given(SEEDS)
def test_distances_of_features_know_neither_axes_nor_origin_nor_unit(seed):
    a, b, rng = two_sets(seed)
    d = a.shape[1]
    unit = 10 ** rng.uniform(-3, 3)
    shift = 1e5 * rng.normal(size=a.shape[1])
    turn = scipy.stats.ortho_group.rvs(d, random_state=rng) if d > 1 else -np.eye(1)

    def moved(x):
        return unit * (x @ turn + shift)

    size = (a**2).sum(1).mean() + (b**2).sum(1).mean()
    assert abs(metrics.frechet(moved(a), moved(b)) / unit**2 - metrics.frechet(a, b)) < 1e-6 * size
    assert (
        abs(metrics.kid(a @ turn, b @ turn) - metrics.kid(a, b))
        < 1e-9 * (1 + max((a**2).sum(1).max(), (b**2).sum(1).max()) / d) ** 3
    )
    assert metrics.neighbours(moved(a), moved(b)) == pytest.approx(metrics.neighbours(a, b))
    labels_a = rng.integers(3, size=len(a))
    labels_b = rng.integers(3, size=len(b))
    named = (
        metrics.frechet_by_class(
            moved(a), moved(b), np.array(list("xyz"))[labels_a], np.array(list("xyz"))[labels_b]
        )
        / unit**2
    )
    assert abs(named - metrics.frechet_by_class(a, b, labels_a, labels_b)) < 1e-6 * size
    assert metrics.frechet_by_class(b, b, labels_b, labels_b) < 1e-6 * size


@examples(60)
@given(SEEDS)
def test_distances_of_distributions_are_metrics(seed):
    a, b, rng = two_sets(seed)
    order = rng.permutation(len(a))

    def shares(rows):
        return np.sort(scipy.stats.norm.cdf(rows), axis=1)

    widths = rng.uniform(0.1, 2, a.shape[1] - 1)

    def plain(x, y):
        return metrics.wasserstein(shares(x), shares(y), widths)

    assert (
        plain(a, b) == pytest.approx(plain(b, a)) == pytest.approx(plain(a[order], b))
        and plain(a, b) >= 0
    )
    assert plain(a, b) <= plain(a, a + 1) + plain(a + 1, b) + 1e-12
    for distance in (morphology.wasserstein_columns, morphology.mean_vector):
        unit = 10 ** rng.uniform(-3, 3, a.shape[1])
        shift = rng.normal(size=a.shape[1])
        assert (
            distance(a, b) >= 0
            and distance(b, b) == 0
            and distance(a, a[order]) == pytest.approx(0, abs=1e-9)
        )
        assert distance(a[order], b) == pytest.approx(distance(a, b), rel=1e-6, abs=1e-9)
        assert distance(unit * (a + shift), unit * (b + shift)) == pytest.approx(
            distance(a, b), rel=1e-6, abs=1e-9
        )
        # copies of every row change nothing
        assert distance(np.repeat(a, 3, axis=0), b) == pytest.approx(
            distance(a, b), rel=1e-6, abs=1e-9
        )
