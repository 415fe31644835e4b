"""Truth tables: the distributions of what is drawn, and the mass that a ring holds."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, stats

from lensnb.errors import InputError
from lensnb.lensing import priors, truth_tables

PRESETS = [name for name in priors.PRIORS if name.startswith("deeplensesim")]


def rows(truth, choice):
    return {name: column[choice] for name, column in truth.items()}


def test_draws_follow_the_broad_prior():
    truth = truth_tables.draw_truth(3000, seed=6)
    p = priors.PRIORS["broad"]
    assert list(truth["class"][:5]) == [0, 1, 2, 0, 1]
    flat = {
        "theta_E": p.theta_E,
        "q": p.q,
        "phi": p.phi,
        "x": p.centre,
        "y": p.centre,
        "source_radius": p.source_radius,
        "source_n": p.source_n,
        "source_q": p.source_q,
    }
    uniform = {name: (truth[name] - low) / (high - low) for name, (low, high) in flat.items()}
    offset2 = (truth["source_x"] - truth["x"]) ** 2 + (truth["source_y"] - truth["y"]) ** 2
    uniform |= {
        "gamma": (truth["gamma"] / 0.07) ** 2,
        "offset": offset2 / 0.35**2,
        "snr": np.log(truth["snr"] / 20) / math.log(2),
    }
    vortex = rows(truth, truth["class"] == 2)
    uniform |= {
        "mass": (vortex["vortex_mass"] - 2e10) / 4e10,
        "length": np.log(vortex["vortex_half_length"] / 0.5) / math.log(5),
    }
    p_values = {name: stats.kstest(u, "uniform").pvalue for name, u in uniform.items()}
    assert min(p_values.values()) > 1e-3, p_values


def test_subhalos_follow_the_mass_function():
    truth = truth_tables.draw_truth(600, seed=7)
    cdm = rows(truth, truth["class"] == 1)
    counts = np.bincount(cdm["subhalos"], minlength=60)
    assert cdm["subhalos"].mean() == pytest.approx(25, abs=1.1)  # 3 standard errors
    assert cdm["subhalos"].var() == pytest.approx(25, rel=0.3) and counts.sum() == 200
    assert not truth["subhalos"][truth["class"] != 1].any()
    for slope in (-0.9, -1.9, -1.0):
        points = truth_tables.draw_points(cdm, replace(priors.PRIORS["broad"], cdm_slope=slope))
        there = points["theta_E"] > 0
        mass = 1e12 * (points["theta_E"][there] / truth_tables.einstein_radius_1e12(0.5, 1.0)) ** 2
        log_m = np.log(mass)
        a = slope + 1
        cdf = (
            (log_m - np.log(1e7)) / np.log(1e3)
            if a == 0
            else np.expm1(a * (log_m - np.log(1e7))) / np.expm1(a * np.log(1e3))
        )
        assert stats.kstest(cdf, "uniform").pvalue > 1e-3
        r = np.hypot(points["x"] - cdm["x"][:, None], points["y"] - cdm["y"][:, None])[there]
        assert stats.kstest((r - 0.25) / 1.75, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("name", PRESETS)
def test_presets_draw_what_the_generator_draws(name):
    truth = truth_tables.draw_truth(300, name)
    scale = 1.0 if name == "deeplensesim-1" else 0.634
    constant = {
        "theta_E_smooth": 1.2815 * scale,
        "gamma": 0.05 * scale,
        "q": 0.818,
        "phi": 0,
        "x": 0,
        "y": 0,
        "phi_gamma": 0,
        "source_radius": 0.25,
        "source_n": 1,
        "source_q": 0.752,
        "source_phi": math.radians(67.5),
    }
    for column, value in constant.items():
        np.testing.assert_allclose(truth[column], value, atol=1e-3)
    cdm = truth["class"] == 1
    vortex = truth["class"] == 2
    assert (truth["subhalos"][cdm] == 25).all() and (truth["vortex_mass"][vortex] == 3e10).all()
    mass = truth["axion_mass_ev"][vortex]
    assert stats.kstest(np.log10(mass) + 24, "uniform", (0, 2)).pvalue > 1e-3
    np.testing.assert_allclose(truth["vortex_half_length"][vortex] * mass, 0.03e-22)
    assert np.abs(truth["source_x"]).max() <= 0.35 and np.abs(truth["source_x"]).max() > 0.33
    if name == "deeplensesim-1":
        assert stats.kstest(np.log10(truth["exposure"]) - 3, "uniform", (0, 0.5)).pvalue > 1e-3


@pytest.mark.parametrize("name", priors.PRIORS)
def test_rows_do_not_depend_on_how_many_are_drawn(name):
    many = truth_tables.draw_truth(1000, name)
    few = truth_tables.draw_truth(100, name)
    single = [truth_tables.draw_truth(1, name, start=i) for i in range(60)]
    for column in many:
        np.testing.assert_array_equal(many[column][:100], few[column])
        ones = np.concatenate([t[column] for t in single])
        np.testing.assert_array_equal(many[column][:60], ones)


# ---- mass and the ring


def test_einstein_radius_from_distances_integrated_here():
    def comoving(z):  # in c / H0
        return integrate.quad(lambda a: (0.3 * (1 + a) ** 3 + 0.7) ** -0.5, 0, z)[0]

    d_l = comoving(0.5) / 1.5
    d_s = comoving(1.0) / 2
    d_ls = (comoving(1.0) - comoving(0.5)) / 2
    hubble_length = 299792.458 / 70  # Mpc
    length = 4 * 1e12 * 4.30091e-9 / 299792.458**2  # Mpc, G in Mpc (km/s)^2 / solar mass
    expected = math.sqrt(length * d_ls / (d_l * d_s) / hubble_length) * 206264.806
    assert truth_tables.einstein_radius_1e12(0.5, 1.0) == pytest.approx(expected, rel=1e-4)
    assert expected == pytest.approx(1.66, abs=0.01)


def test_convention_of_sets_2_and_3_is_the_ratio_of_distances():
    def comoving(z):
        return integrate.quad(lambda a: (0.3 * (1 + a) ** 3 + 0.7) ** -0.5, 0, z)[0]

    ratio = (1 - comoving(0.5) / comoving(1.0)) / (1 - comoving(0.5) / comoving(2.5))
    assert pytest.approx(ratio, rel=1e-4) == priors.DEEPLENSE_SCALE


def test_substructure_is_taken_from_the_smooth_lens():
    truth = truth_tables.draw_truth(300)
    none = truth["class"] == 0
    assert (truth["theta_E_smooth"][none] == truth["theta_E"][none]).all()
    assert (truth["theta_E_smooth"][~none] < truth["theta_E"][~none]).all()
    assert not truth["substructure_mass"][none].any()
    assert (truth["substructure_mass"][~none] > 0).all()
    vortex = rows(truth, truth["class"] == 2)
    assert (vortex["substructure_mass"] <= vortex["vortex_mass"] * (1 + 1e-9)).all()


def test_heavy_subhalos_are_refused():
    with pytest.raises(InputError, match="outweighs its lens"):
        truth_tables.draw_truth(3, replace(priors.PRIORS["broad"], cdm_mass=(1e11, 2e11)))
