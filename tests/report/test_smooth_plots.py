# SPDX-License-Identifier: BSD-3-Clause
"""What is drawn of smooths is what `Fit.effect` says: read back from the axes."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

import marglik
from marglik.report import plots, sheet, smooth_plots

N = 120
RNG = np.random.default_rng(4)
DATA = pd.DataFrame({"x": RNG.uniform(size=N), "z": RNG.uniform(size=N), "f": RNG.choice(["a", "b"], N)})
DATA["g"] = [f"g{i}" for i in RNG.integers(0, 7, N)]
DATA["y"] = np.sin(6 * DATA["x"]) + DATA["z"] ** 2 + 0.2 * RNG.normal(size=N)


@pytest.fixture(scope="module")
def fit():
    return marglik.fit("y ~ f + s(x, by=f, k=8) + s(z) + s(g, bs='re')", DATA)


def panel(figure, label):
    (ax,) = (ax for ax in figure.axes if ax.get_title(loc="left").startswith(f"{label}, edf"))
    return ax


def test_curves_bands_and_partial_residuals(fit):
    ax = panel(plots.overview(fit), "s(z)")
    curve, drawn = fit.effect("s(z)"), {line.get_color(): line for line in ax.lines}
    np.testing.assert_allclose(drawn[sheet.BLUE].get_xdata(), curve["z"])
    np.testing.assert_allclose(drawn[sheet.BLUE].get_ydata(), curve["estimate"])
    residuals = DATA["y"] - fit.predict() + fit.predict(include="s(z)")
    np.testing.assert_allclose(drawn[sheet.PALE].get_ydata(), residuals)
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(curve["lower"].min())
    assert corners[:, 1].max() == pytest.approx(curve["upper"].max())
    assert ax.get_xlabel() == "z"


def test_a_smooth_of_one_level_shows_where_its_rows_are(fit):
    figure = plots.overview(fit)
    (rug,) = (line for line in panel(figure, "s(x):f[b]").lines if line.get_marker() == "|")
    np.testing.assert_array_equal(rug.get_xdata(), DATA["x"][DATA["f"] == "b"])
    assert panel(figure, "s(x):f[a]").get_ylim() == panel(figure, "s(z)").get_ylim()


def test_levels_are_in_order(fit):
    ax = panel(plots.overview(fit), "s(g)")
    effect = fit.effect("s(g)").sort_values("estimate")
    assert [t.get_text() for t in ax.get_xticklabels()] == list(effect["g"])
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), effect["estimate"])


def test_a_surface_is_a_map():
    fit = marglik.fit("y ~ s(x, z, k=15)", DATA)
    ax = panel(plots.overview(fit), "s(x, z)")
    mesh = ax.collections[0].get_array()
    effect = fit.effect("s(x, z)", n=smooth_plots.STEPS)
    np.testing.assert_allclose(np.ravel(mesh), effect["estimate"])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "z")


def test_summary_names_smooths_and_mgcv_s_parameter(fit):
    text = fit.summary()
    sd = fit.hyperparameters["estimate"]
    sp = (sd["sd(noise)"] / sd["sd(s(z))"]) ** 2
    (row,) = (line.split() for line in text.splitlines() if line.startswith("s(z) "))
    np.testing.assert_allclose([float(x) for x in row[1:]], [fit.edf["s(z)"], sd["sd(s(z))"], sp], rtol=2e-3)
    assert "sd(noise)²/sd²" in text
    assert "<td>s(z)</td>" in fit._repr_html_()


@pytest.mark.parametrize("places", [None, 1])
def test_a_process_beside_an_intercept_is_drawn_less_its_mean(places):
    """By dense algebra: of g = f(x) − mean f, cov(g, y) = c, var g − cᵀV⁻¹c + (1ᵀV⁻¹c)² / 1ᵀV⁻¹1."""
    s, ell, noise = 1.2, 0.3, 0.4
    data = DATA if places is None else DATA.round({"x": places})
    held = {"sd(gp(x))": s, "length_scale(gp(x))": ell, "sd(noise)": noise}
    fit = marglik.fit("y ~ gp(x)", data, fixed=held)
    ax = panel(plots.overview(fit), "gp(x) − mean")
    drawn = {line.get_color(): line for line in ax.lines}
    at, x, y = drawn[sheet.BLUE].get_xdata(), data["x"].to_numpy(), data["y"].to_numpy()

    def k(a, b):
        return s**2 * np.exp(-(((a[:, None] - b) / ell) ** 2) / 2)

    inverse, ones = np.linalg.inv(k(x, x) + noise**2 * np.eye(N)), np.ones(N)
    c = k(at, x) - k(x, x).mean(axis=0)
    own = s**2 - 2 * k(at, x).mean(axis=1) + k(x, x).mean()
    beta = ones @ inverse @ y / (ones @ inverse @ ones)
    slack = (c @ inverse @ ones) ** 2 / (ones @ inverse @ ones)
    half = 1.959964 * np.sqrt(own - np.einsum("ni,ij,nj->n", c, inverse, c) + slack)
    mean = c @ inverse @ (y - beta)
    np.testing.assert_allclose(drawn[sheet.BLUE].get_ydata(), mean, rtol=0, atol=1e-6)
    (band,) = ax.collections
    low, high = np.sort(band.get_paths()[0].vertices[:, 1])[[0, -1]]
    np.testing.assert_allclose([low, high], [(mean - half).min(), (mean + half).max()], rtol=0, atol=1e-5)
    fitted = (k(x, x) - k(x, x).mean(axis=0)) @ inverse @ (y - beta)
    residual = noise**2 * inverse @ (y - beta)
    np.testing.assert_allclose(drawn[sheet.PALE].get_ydata(), fitted + residual, rtol=0, atol=1e-5)


def test_a_process_alone_has_its_own_level():
    fit = marglik.fit("y ~ 0 + gp(x)", DATA, fixed={"sd(gp(x))": 1.0, "length_scale(gp(x))": 0.3, "sd(noise)": 0.4})
    ax = panel(plots.overview(fit), "gp(x)")
    drawn = {line.get_color(): line for line in ax.lines}
    np.testing.assert_allclose(drawn[sheet.BLUE].get_ydata(), fit.effect("gp(x)")["estimate"])


def test_titles_of_many_smooths_do_not_meet():
    names = [f"a_long_name_{i}" for i in range(10)]
    data = pd.DataFrame(RNG.uniform(size=(N, 10)), columns=names).assign(y=DATA["y"])
    formula = "y ~ " + " + ".join(f"s({name}, bs='cr', k=4)" for name in names)
    figure = plots.overview(marglik.fit(formula, data, fixed={f"sd(s({name}))": 1.0 for name in names}))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    left, right = figure.subfigs[0].subfigs
    boxes = [ax._left_title.get_window_extent(canvas.get_renderer()) for ax in left.axes if ax.get_visible()]
    assert len(boxes) == 10
    assert max(box.x1 for box in boxes) < right.bbox.x0
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
