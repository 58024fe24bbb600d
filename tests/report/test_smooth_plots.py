# SPDX-License-Identifier: BSD-3-Clause
"""What is drawn of smooths is what `Fit.effect` says: read back from the axes."""

import numpy as np
import pandas as pd
import pytest

import marglik
from marglik.report import plots, smooth_plots

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
    np.testing.assert_allclose(drawn[smooth_plots.BLUE].get_xdata(), curve["z"])
    np.testing.assert_allclose(drawn[smooth_plots.BLUE].get_ydata(), curve["estimate"])
    residuals = DATA["y"] - fit.predict() + fit.predict(include="s(z)")
    np.testing.assert_allclose(drawn[smooth_plots.PALE].get_ydata(), residuals)
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
