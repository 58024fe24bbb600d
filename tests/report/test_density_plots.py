# SPDX-License-Identifier: BSD-3-Clause
"""Densities of integrated hyperparameters against quadrature, and what is drawn of them."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.stats import norm

import marglik
from marglik.hyperparameters import Positive
from marglik.integrated import _smoothed
from marglik.report import density_plots, sheet
from marglik.supports import Real

SCHOOLS = pd.DataFrame({"y": [28.0, 8, -3, 7, -1, 1, 18, 12], "school": list("ABCDEFGH")})


@pytest.fixture(scope="module")
def one():
    fit = marglik.fit("y ~ 1 + (1 | school)", SCHOOLS, fixed={"sd(noise)": 12.0})
    return fit, fit.integrate_hyperparameters()


@pytest.fixture(scope="module")
def two():
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(7), 4)
    y = 2 + 0.8 * rng.standard_normal(7)[g] + rng.standard_normal(28)
    fit = marglik.fit("y ~ 1 + (1 | g)", pd.DataFrame({"y": y, "g": g}))
    return fit, fit.integrate_hyperparameters()


def curve(ax):
    (line,) = (line for line in ax.lines if line.get_color() == sheet.BLUE)
    return line.get_xdata(), line.get_ydata()


def test_the_density_of_one_scale_is_its_evidence_under_a_flat_prior(one):
    fit, whole = one
    tau, drawn = curve(whole.plot().axes[0])
    wide = np.linspace(0, 300, 3001)
    evidence = np.exp([fit.log_evidence_at({"sd(Intercept | school)": t}) for t in wide])
    total = np.trapezoid(evidence, wide)
    np.testing.assert_allclose(drawn, np.interp(tau, wide, evidence) / total, rtol=0, atol=2e-3 * drawn.max())


def test_densities_of_two_scales_equal_quadrature(two):
    fit, whole = two
    axes = [np.linspace(1e-3, 6, 120), np.linspace(0.5, 2.5, 81)]
    names = ["sd(Intercept | g)", "sd(noise)"]
    log_p = [[fit.log_evidence_at(dict(zip(names, (a, b), strict=True))) for b in axes[1]] for a in axes[0]]
    p = np.exp(np.array(log_p) - np.max(log_p))
    total = np.trapezoid(np.trapezoid(p, axes[1]), axes[0])
    for i, ax in enumerate(whole.plot().axes):
        x, drawn = curve(ax)
        truth = np.trapezoid(p, axes[1 - i], axis=1 - i) / total
        assert x[-1] < axes[i][-1]
        np.testing.assert_allclose(drawn, np.interp(x, axes[i], truth), rtol=0, atol=0.05 * truth.max())


def test_what_is_marked(two):
    fit, whole = two
    figure = whole.plot()
    assert figure.get_suptitle() == "y ~ 1 + (1 | g)"
    n = whole.nodes.n_evaluations
    assert figure.subfigs[0].get_suptitle() == (
        f"hyperparameters integrated by importance sampling, {n} evaluations of the evidence; prior: flat"
    )
    table = whole.hyperparameters
    for ax, (name, row) in zip(figure.axes, table.iterrows(), strict=True):
        title = ax.get_title(loc="left")
        assert title == f"{name}: {row['median']:.3g}  ({row['lower']:.3g}, {row['upper']:.3g})"
        (estimate,) = (line for line in ax.lines if line.get_color() == sheet.RED)
        assert estimate.get_xdata()[0] == fit.hyperparameters.loc[name, "estimate"]
        darker, (median,) = ax.collections[1].get_paths()[0].vertices[:, 0], ax.collections[2].get_segments()
        assert median[0, 0] == row["median"]
        assert (darker.min(), darker.max()) == pytest.approx((row["lower"], row["upper"]))


def test_an_estimate_at_zero_is_marked(one):
    ax = one[1].plot().axes[0]
    (estimate,) = (line for line in ax.lines if line.get_color() == sheet.RED)
    assert estimate.get_xdata()[0] == 0
    assert ax.get_xlim()[0] < 0


@pytest.mark.parametrize(("support", "c"), [(Positive(), 1.0), (Positive(), 1e-6), (Real(), 1e4)])
def test_weighted_draws_give_their_density_in_any_units(support, c):
    """Draws uniform on an interval, weighted by the density of a normal, cut at zero where positive."""
    s = np.linspace(0 if isinstance(support, Positive) else -6, 6, 8001)
    w = norm.pdf(s)
    x, p = _smoothed(c * s, w / w.sum(), c * s[0], 3 * c, support)
    truth = norm.pdf(x / c) / c * (2 if isinstance(support, Positive) else 1)
    np.testing.assert_allclose(p, truth, rtol=0, atol=0.03 * truth.max())


def test_nothing_collides_and_the_rest_is_counted():
    x = np.linspace(-3, 3, 50)
    name = "sd(a rather long name of a hyperparameter)"
    many = [density_plots.Density(name, x, norm.pdf(x), -1.96, 0.0, 1.96, 0.1) for _ in range(14)]
    figure = density_plots.overview("title", "line", many, None, more="table", estimate="estimate")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    assert len(figure.axes) == 12
    (body,) = figure.subfigs
    (inner,) = body.subfigs
    assert inner.get_supxlabel() == "and 2 more in table"
    titles = [ax._left_title.get_window_extent(renderer) for ax in figure.axes]
    boxes = [body._suptitle.get_window_extent(renderer), inner.legends[0].get_window_extent(renderer), *titles]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_it_is_written_as_asked_and_refused_in_a_sentence(one, tmp_path):
    one[1].plot(tmp_path / "densities.svg")
    assert (tmp_path / "densities.svg").read_bytes().startswith(b"<?xml")
    with pytest.raises(ValueError, match=r"Pictures end in .svg, .png, .pdf, but the path is"):
        one[1].plot(tmp_path / "densities.gif")
