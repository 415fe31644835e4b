"""Recipes: the shipped ones, overrides, and one clear sentence for each kind of mistake."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lensnb.errors import InputError
from lensnb.recipes import smoke
from lensnb.recipes.recipe import Params, keys, load_recipe, validate
from lensnb.sampler import SAMPLERS

RECIPES = sorted((Path(__file__).parents[2] / "params").glob("*.yaml"))
QUICK = RECIPES[0].with_name("quick.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_shipped_recipe_is_valid_and_named_after_its_file(path):
    assert load_recipe(path).run == path.stem


def test_a_smoke_run_keeps_what_guides_and_enough_to_judge_by():
    given = "data.holdout=0.05 train.keep=[500] sample.methods.ddim.guidance=2"
    short = smoke.shortened(load_recipe(QUICK, f"{given} sample.methods.ddim.guide=step-500"))
    assert short.sample.methods["ddim"].guide == f"step-{short.train.steps}"
    assert short.train.keep == (short.train.steps,) and short.gan.keep == ()
    assert short.data.n * short.data.holdout >= short.evaluate.n == 8


def test_the_defaults_of_the_schema_are_the_quick_recipe():
    assert load_recipe(QUICK) == Params()


def test_the_quick_recipe_names_and_comments_every_knob():
    text = QUICK.read_text()
    tree = yaml.safe_load(text)
    for key in keys():
        branch = tree
        for part in key.split("."):
            assert part in branch, key
            branch = branch[part]
    knobs = [line for line in text.splitlines() if ":" in line and not line.endswith(":")]
    silent = {line.split(":")[0].strip() for line in knobs if "#" not in line}
    assert silent <= {"ddpm", "ddim", "gan"}  # explained above them


def test_overrides_reach_into_sections_and_keep_the_rest():
    p = load_recipe(
        QUICK,
        "train.steps=2000 data.n=500 train.rate=1e-4 model.multipliers=[1,2,2] "
        "data.path='my folder'",
    )
    assert (p.train.steps, p.data.n, p.train.rate, p.model.multipliers) == (
        2000,
        500,
        1e-4,
        (1, 2, 2),
    )
    assert p.data.path == "my folder" and p.train.batch == Params().train.batch


MISTAKES = {
    "unknown_section": ("trian: {steps: 3}", r"unknown key trian; did you mean train\?"),
    "unknown_key": ("train: {step: 3}", r"unknown key train.step; did you mean train.steps\?"),
    "unknown_method_key": (
        "sample: {methods: {a: {sampler: ddim, step: 3}}}",
        r"unknown key sample.methods.a.step",
    ),
    "type": ("train: {steps: many}", r"train.steps: input should be a valid integer.*found 'many'"),
    "fraction": ("train: {steps: 2.5}", "train.steps: .*found 2.5"),
    "boolean": ("train: {steps: true}", "train.steps: expected a value, not true or false"),
    "below": ("train: {steps: 0}", "train.steps: .*greater than or equal to 1.*found 0"),
    "negative": ("train: {rate: -1}", "train.rate: .*greater than 0"),
    "infinite": ("train: {rate: .inf}", "train.rate: .*finite number"),
    "nan": ("data: {holdout: .nan}", "data.holdout: .*finite number"),
    "choice": (
        "diffusion: {schedule: cosin}",
        "diffusion.schedule: .*'cosine', 'linear'.* or 'flow'; did you mean 'cosine'.*"
        "found 'cosin'",
    ),
    "list_for_section": ("train: [1]", "train: .*found \\[1\\]"),
    "width": ("model: {width: 20}", "width 20 is not divisible by 8"),
    "shuffled": (
        "model: {width: 40, block: shuffle}",
        "half of width 40, which a shuffle block normalises, is not divisible by groups 8",
    ),
    "groups": (
        "model: {width: 48, groups: 32}",
        "width 48 is not divisible by 8, by groups 32 and by heads 4",
    ),
    "zero_snr": (
        "diffusion: {zero_snr: true, prediction: noise}",
        "prediction noise cannot tell .* take v, x0 or velocity",
    ),
    "flow_noise": (
        "diffusion: {schedule: flow, prediction: noise}",
        "prediction noise cannot tell",
    ),
    "signal": ("diffusion: {signal_low: 0.96}", "signal_low 0.96 must be below signal_high 0.95"),
    "sigmas": (
        "sample: {methods: {a: {sampler: heun, steps: 3, sigma_min: 90}}}",
        "sigma_min 90.0 must be below sigma_max 80.0",
    ),
    "guidance": (
        "model: {context: none}\nsample: {methods: {a: {sampler: ddim, steps: 3, guidance: 2}}}",
        "methods.a.guidance 2.0 needs model.context",
    ),
    "interval": (
        "sample: {methods: {a: {sampler: ddim, steps: 3, guidance_low: 3, guidance_high: 2}}}",
        "guidance_low 3.0 must be below guidance_high 2.0",
    ),
    "idle_guide": (
        "train: {keep: [500]}\nsample: {methods: {a: {sampler: ddim, steps: 3, guide: step-500}}}",
        "guide step-500 does nothing with guidance 1; take 1.5 or so",
    ),
    "lost_guide": (
        "train: {keep: [500]}\nsample: {methods: {a: {sampler: ddim, steps: 3, guidance: 2, "
        "guide: step-50}}}",
        "methods.a.guide step-50 is not among .* train.keep keeps, which are step-500",
    ),
    "gan_guide": (
        "sample: {methods: {a: {model: gan, guide: step-5}}}",
        "a GAN follows its context as it was trained; leave out `guidance` and `guide`",
    ),
    "gan_start": (
        "sample: {methods: {a: {model: gan, start: mean}}}",
        "a GAN has no noise levels to start at; leave out `start`",
    ),
    "table": (
        "model: {context: none}\nsample: {context: my.csv}",
        "sample.context my.csv is given, and model.context is none",
    ),
    "sampler": (
        "sample: {methods: {a: {sampler: dpm, steps: 3}}}",
        "sample.methods.a.sampler: .*'dpmpp_2m'.*found 'dpm'",
    ),
    "flips": ("train: {flips: true}", "train.flips: expected a value, not true or false"),
    "level": ("model: {attention: [3]}", r"names a level outside 0..2"),
    "size": ("{data: {size: 60}, model: {grid: cartesian}}", "data.size 60 is not a multiple of 8"),
    "gan_size": ("data: {size: 24}", "data.size 24 is not a multiple of 16"),
    "betas": ("diffusion: {beta_1: 0.5, beta_T: 0.1}", "beta_1 0.5 must be below beta_T 0.1"),
    "nothing_left": (
        "diffusion: {schedule: linear, beta_T: 0.5}",
        "over 1000 timesteps leave 1e-133 of the image.* take beta_T 0.02 or so",
    ),
    "sampler_steps": (
        "sample: {methods: {a: {sampler: ddim, steps: 2000}}}",
        "steps 2000 is above diffusion.timesteps 1000",
    ),
    "no_methods": ("sample: {methods: {}}", "sample.methods: .*at least 1"),
    "gan_width": ("gan: {width: 10}", "gan.width: .*multiple of 4"),
    "no_sampler": ("sample: {methods: {a: {}}}", "needs `sampler` and `steps`"),
    "gan_with_sampler": ("sample: {methods: {a: {model: gan, steps: 3}}}", "takes neither"),
    "fit": (
        "evaluate: {fit: 1}",
        "evaluate.fit: .*one image has no scatter; fit 2 or more, or 0 for none",
    ),
    "escape": ("run: ../elsewhere", "run: string should match pattern"),
    "yaml": ("train: {steps: 3", "not readable as YAML"),
    "list": ("- 3", "expected `key: value` lines, found list"),
    "binary": (b"\xff\xfe\x00", "not readable as YAML"),
}


def test_a_sampler_that_is_registered_later_may_be_named(monkeypatch):
    monkeypatch.setitem(SAMPLERS, "mine", SAMPLERS["ddim"])
    given = {"sample": {"methods": {"a": {"sampler": "mine", "steps": 3}}}}
    assert validate(given, "x").sample.methods["a"].sampler == "mine"
    monkeypatch.delitem(SAMPLERS, "mine")
    with pytest.raises(InputError, match="input should be 'ddpm', .* or 'unipc'.*found 'mine'"):
        validate(given, "x")


def test_the_first_line_of_every_recipe_says_what_it_is():
    for path in RECIPES:
        first = path.read_text().splitlines()[0]
        assert first.startswith("# ") and len(first) <= 92 and "recipe" not in first


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_with_file_and_key(name, tmp_path):
    text, expected = MISTAKES[name]
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=expected) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 400


@pytest.mark.parametrize(
    "override, expected",
    [
        ("train.steps", "expected key=value"),
        ("=3", "expected key=value"),
        ("train.=3", "expected key=value"),
        ("data.path='abc", "No closing quotation"),
        ("seed.x=3", "seed is a single value"),
        ("train.steps=[1", "not a YAML value"),
        ("train.stepz=3", "did you mean train.steps"),
    ],
)
def test_a_wrong_override_is_one_sentence(override, expected):
    with pytest.raises(InputError, match=expected):
        load_recipe(QUICK, override)


def test_no_image_or_two_are_fitted():
    assert [load_recipe(QUICK, f"evaluate.fit={n}").evaluate.fit for n in (0, 2)] == [0, 2]


def test_an_unknown_recipe_names_the_nearest(tmp_path):
    with pytest.raises(InputError, match=r"quik.yaml: no such recipe; did you mean .*quick.yaml\?"):
        load_recipe(QUICK.with_name("quik.yaml"))


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    rate=st.floats(1e-9, 0.5),
    steps=st.integers(1, 10**9),
    multipliers=st.lists(st.integers(1, 8), min_size=1, max_size=3),
    path=st.none() | st.text(min_size=1, max_size=30),
)
def test_any_valid_recipe_survives_yaml(seed, rate, steps, multipliers, path):
    p = validate(
        {
            "seed": seed,
            "train": {"rate": rate, "steps": steps},
            "data": {"path": path},
            "model": {"multipliers": multipliers, "attention": []},
        },
        "x",
    )
    assert validate(yaml.safe_load(yaml.safe_dump(p.model_dump(mode="json"))), "x") == p


def test_notebook_variables_become_a_recipe_and_others_are_left_alone():
    p = Params.from_notebook({"run": "x", "train": {"steps": 5}, "np": 3, "_": 4})
    assert (p.run, p.train.steps) == ("x", 5)
    with pytest.raises(InputError, match="the parameters cell: unknown key data.m"):
        Params.from_notebook({"data": {"m": 3}})
