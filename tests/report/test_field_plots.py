# SPDX-License-Identifier: BSD-3-Clause
"""Receptive fields in a fit's picture: the posterior means themselves, where they lie."""

import numpy as np
import pytest

import marglik
from marglik import Flat, LinearModel, ReceptiveField
from marglik.likelihoods import Gaussian

pytest.importorskip("matplotlib")
rng = np.random.default_rng(0)


def fitted(shape, dims, spacing):
    X = rng.standard_normal((120, int(np.prod(shape))))
    y = X @ np.sin(np.arange(X.shape[1])) + rng.standard_normal(120)
    field = ReceptiveField(X, shape, dims, spacing)
    return marglik.fit(LinearModel(Gaussian(), Flat(np.ones((120, 1)), ["Intercept"]) + field, y))


def axes(fit):
    return next(ax for ax in fit.plot().axes if ax.get_title(loc="left").startswith("field"))


@pytest.mark.parametrize("shape", [(9,), (1, 9)])
def test_a_curve_with_its_band(shape):
    fit = fitted(shape, ("t", "lag")[-len(shape) :], 0.5)
    ax = axes(fit)
    curve = ax.lines[-1]
    mean, sd = fit.posterior.mean["field"], fit.posterior.sd["field"]
    np.testing.assert_allclose(curve.get_xdata(), np.arange(9) * 0.5)
    np.testing.assert_array_equal(curve.get_ydata(), mean)
    edges = ax.collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose(edges.max(), (mean + 1.959964 * sd).max(), rtol=1e-6)
    assert ax.get_xlabel() == "lag"


def test_an_image():
    fit = fitted((3, 4), ("lag", "px"), (0.1, 2.0))
    ax = axes(fit)
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), fit.posterior.mean["field"].reshape(3, 4))
    np.testing.assert_allclose(image.get_extent(), (-1, 7, 0.25, -0.05))
    low, high = image.get_clim()
    assert low == -high == -np.abs(fit.posterior.mean["field"]).max()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("px", "lag")


def test_a_row_of_images():
    fit = fitted((2, 3, 4), None, 1.0)
    ax = axes(fit)
    shown = np.ma.filled(ax.images[0].get_array(), np.nan)
    cells = fit.posterior.mean["field"].reshape(2, 3, 4)
    np.testing.assert_array_equal(shown[:, :4], cells[0])
    assert np.isnan(shown[:, 4]).all()
    np.testing.assert_array_equal(shown[:, 5:], cells[1])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["lag 0", "lag 1"]
    np.testing.assert_allclose(ax.get_xticks(), [1.5, 6.5])
