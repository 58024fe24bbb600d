# SPDX-License-Identifier: BSD-3-Clause
"""What is drawn is what the fit says: read back from the axes of the figures."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

import marglik
from marglik import Flat, Gaussian, LinearModel, Ridge
from marglik.fitting import fit_model
from marglik.report import plots, sheet

SLEEP = Path(__file__).parents[2] / "examples" / "sleepstudy.csv"
N = 80
rng = np.random.default_rng(1)
DATA = pd.DataFrame({"x": rng.uniform(0, 4, N), "g": np.arange(N) % 5, "z": rng.standard_normal(N)})
DATA["y"] = DATA["x"] + np.array([0, 1, -1, 2, -2])[DATA["g"]] + rng.standard_normal(N)
DATA["count"] = rng.poisson(np.exp(0.3 * DATA["x"] + 0.3 * DATA["g"]))
DATA["even"] = DATA["z"] - DATA.groupby("g")["z"].transform("mean")
X = rng.standard_normal((N, 60))


@pytest.fixture(scope="module")
def sleep():
    return marglik.fit("Reaction ~ Days + (1 | Subject)", SLEEP)


def axes_titled(figure, words):
    found = [ax for ax in figure.axes if any(t.get_text().startswith(words) for t in ax.texts)]
    assert len(found) == 1, [t.get_text() for ax in figure.axes for t in ax.texts]
    return found[0]


def dots(ax, colour=sheet.BLUE, filled=True):
    """Name of a row → where its dot is."""
    names = dict(zip(ax.get_yticks(), [t.get_text() for t in ax.get_yticklabels()], strict=True))
    return {
        names[line.get_ydata()[0]]: line.get_xdata()[0]
        for line in ax.lines
        if line.get_marker() == "o"
        and len(line.get_xdata())
        and line.get_markeredgecolor() == colour
        and (line.get_markerfacecolor() == colour) is filled
    }


def bars(ax, colour=sheet.BLUE):
    names = dict(zip(ax.get_yticks(), [t.get_text() for t in ax.get_yticklabels()], strict=True))
    return {
        names[line.get_ydata()[0]]: tuple(line.get_xdata())
        for line in ax.lines
        if line.get_linestyle() == "-" and line.get_color() == colour and len(line.get_xdata()) == 2
    }


def test_hyperparameters_and_their_intervals(sleep):
    ax = axes_titled(plots.overview(sleep), "Hyperparameters")
    table = sleep.hyperparameters
    assert dots(ax) == table["estimate"].to_dict()
    assert bars(ax) == {name: (row["lower"], row["upper"]) for name, row in table.iterrows()}
    assert ax.get_xscale() == "log"


@pytest.fixture(scope="module")
def slopes():
    return marglik.fit("Reaction ~ Days + (Days | Subject)", SLEEP)


def test_a_correlation_has_an_axis_of_its_own(slopes):
    figure, table = plots.overview(slopes), slopes.hyperparameters
    scales, correlations = axes_titled(figure, "Hyperparameters"), axes_titled(figure, "Correlations")
    name = "cor(Intercept, Days | Subject)"
    assert dots(scales) == table["estimate"].drop(name).to_dict()
    assert dots(correlations) == {name: table.loc[name, "estimate"]}
    assert bars(correlations) == {name: tuple(table.loc[name, ["lower", "upper"]])}
    assert (scales.get_xscale(), correlations.get_xscale()) == ("log", "linear")
    axes_titled(figure, "Intercept, 18 levels of Subject")


def test_a_correlation_at_its_end_and_one_that_is_held():
    g, x = np.repeat(np.arange(8), 6), np.tile(np.arange(6.0), 8)
    noise = np.random.default_rng(3)
    b = noise.standard_normal(8)[g]
    data = pd.DataFrame({"y": 1 + x + b * (2 + 0.7 * x) + 0.8 * noise.standard_normal(48), "x": x, "g": g})
    fit = marglik.fit("y ~ x + (x | g)", data)
    ax, name = axes_titled(plots.overview(fit), "Correlations"), "cor(Intercept, x | g)"
    lower = fit.hyperparameters.loc[name, "lower"]
    assert bars(ax, sheet.RED) == {name: (lower, 1.0)}
    assert dots(ax, sheet.RED, filled=False) == {name: 1.0}
    assert f"1, above {lower:.3g}" in {t.get_text() for t in ax.texts}
    held = marglik.fit("y ~ x + (x | g)", data, fixed={name: 0.3})
    assert "0.3, held" in {t.get_text() for t in axes_titled(plots.overview(held), "Correlations").texts}


def test_fixed_effects_and_an_intercept_off_the_axis(sleep):
    ax = axes_titled(plots.overview(sleep), "Fixed effects")
    low, high = ax.get_xlim()
    table = sleep.fixed_effects
    assert dots(ax)["Days"] == table.loc["Days", "estimate"]
    assert low < 0 < table.loc["Days", "upper"] < high < table.loc["Intercept", "lower"]
    assert [line.get_marker() for line in ax.lines].count(">") == 1
    words = {t.get_text() for t in ax.texts}
    assert {"251.4  (232.3, 270.5)", "10.47  (8.89, 12.04)"} <= words


@pytest.mark.parametrize("shift", [-5000, 5000])
def test_the_arrow_of_an_effect_off_the_axis_touches_no_label(shift):
    figure = plots.overview(marglik.fit("far ~ x + (1 | g)", DATA.assign(far=DATA["y"] + shift)))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    ax = axes_titled(figure, "Fixed effects")
    (arrow,) = (line for line in ax.lines if line.get_marker() in ("<", ">"))
    box = arrow.get_window_extent(canvas.get_renderer())
    assert ax.bbox.x0 - 1 <= box.x0 < box.x1 <= ax.bbox.x1 + 1  # pixels


def test_what_the_dots_of_levels_are_is_said_above_them(sleep):
    figure = plots.overview(sleep)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    ax = axes_titled(figure, "18 levels of Subject")
    assert ax.get_legend().get_window_extent(canvas.get_renderer()).y0 >= ax.bbox.y1


def test_levels_from_a_column_of_floats_have_no_decimal_point():
    fit = marglik.fit("y ~ x + (1 | year)", DATA.assign(year=DATA["g"] + 1935.0))
    years = [1935, 1936, 1937, 1938, 1939]
    assert list(map(str, fit.random_effects("year").index)) == list(map(str, years))
    ax = axes_titled(plots.overview(fit), "5 levels of year")
    assert sorted(dots(ax)) == list(map(str, years))
    for kind in (float, int):
        new = pd.DataFrame({"x": np.zeros(5), "year": np.array(years, kind)})
        np.testing.assert_allclose(
            fit.predict(new, include=["(1 | year)"]), fit.random_effects("year")["Intercept"], rtol=1e-12
        )


def test_levels_are_sorted_and_show_what_their_own_rows_say(sleep):
    ax = axes_titled(plots.overview(sleep), "18 levels of Subject")
    effects = sleep.random_effects()["Intercept"]
    sd = sleep.random_effects().attrs["sd"]["Intercept"]
    found = dots(ax)
    assert [int(name) for name in found] == effects.sort_values(ascending=False).index.tolist()
    np.testing.assert_array_equal(list(found.values()), effects.sort_values(ascending=False))
    low, high = bars(ax)["308"]
    assert (low, high) == pytest.approx(
        (effects[308] - 1.959964 * sd[308], effects[308] + 1.959964 * sd[308]), rel=1e-6
    )
    frame = pd.read_csv(SLEEP)
    beta = sleep.fixed_effects["estimate"]
    residual = frame["Reaction"] - beta["Intercept"] - beta["Days"] * frame["Days"]
    alone = residual.groupby(frame["Subject"]).mean()
    hollow = dots(ax, sheet.RED, filled=False)
    np.testing.assert_allclose([hollow[str(i)] for i in alone.index], alone, rtol=1e-9)


def test_lines_over_the_data_level_by_level(sleep):
    figure = plots.overview(sleep)
    frame = pd.read_csv(SLEEP)
    subjects = sleep.random_effects()["Intercept"].sort_values(ascending=False).index
    small = [ax for ax in figure.axes if ax.texts and ax.texts[0].get_text() in set(map(str, subjects))]
    assert [int(ax.texts[0].get_text()) for ax in small] == subjects.tolist()
    for ax, subject in zip(small, subjects, strict=True):
        seen, line, population = ax.lines
        mine = frame[frame["Subject"] == subject]
        np.testing.assert_array_equal(seen.get_xydata(), mine[["Days", "Reaction"]])
        days = line.get_xdata()
        assert (days[0], days[-1]) == (0, 9)
        beta, effect = sleep.fixed_effects["estimate"], sleep.random_effects().loc[subject, "Intercept"]
        np.testing.assert_allclose(population.get_ydata(), beta["Intercept"] + beta["Days"] * days, rtol=1e-12)
        np.testing.assert_allclose(line.get_ydata(), population.get_ydata() + effect, rtol=1e-12)


def test_lines_on_the_scale_of_the_response():
    fit = marglik.fit("count ~ x + (1 | g)", DATA, family="poisson")
    figure = plots.overview(fit)
    ax = next(ax for ax in figure.axes if ax.texts and ax.texts[0].get_text() == "3")
    x, y = ax.lines[1].get_data()
    beta, effect = fit.fixed_effects["estimate"], fit.random_effects().loc[3, "Intercept"]
    np.testing.assert_allclose(y, np.exp(beta["Intercept"] + effect + beta["x"] * x), rtol=1e-12)
    assert not dots(axes_titled(figure, "5 levels of g"), sheet.RED, filled=False)


@pytest.mark.parametrize(
    "formula",
    ["y ~ x + z + (1 | g)", "y ~ 1 + (1 | g)", "y ~ x + offset(z) + (1 | g)", "y ~ x"],
)
def test_no_lines_where_one_covariate_does_not_say_it_all(formula):
    assert plots.Lines.of(marglik.fit(formula, DATA, fixed={"sd(noise)": 1.0})) is None


def test_a_scale_at_zero_and_one_that_is_held():
    fit = marglik.fit("even ~ 1 + (1 | g)", DATA, fixed={"sd(noise)": 0.75})
    ax = axes_titled(plots.overview(fit), "Hyperparameters")
    upper = fit.hyperparameters.loc["sd(Intercept | g)", "upper"]
    low, high = bars(ax, sheet.RED)["sd(Intercept | g)"]
    assert low == ax.get_xlim()[0]
    assert high == upper
    (diamond,) = [line for line in ax.lines if line.get_marker() == "D"]
    assert diamond.get_xdata()[0] == 0.75
    words = [t.get_text() for t in ax.texts]
    assert "0.75, held" in words
    assert f"0, below {upper:.3g}" in words


def test_weights_of_a_ridge_and_what_it_fits():
    names = [f"c{i}" for i in range(6)]
    data = pd.DataFrame(X[:, :6], columns=names).assign(y=DATA["y"])
    fit = marglik.fit(f"y ~ ridge({', '.join(names)})", data)
    figure = plots.overview(fit)
    label = "ridge(c0, c1, c2, c3, c4, c5)"
    weights = pd.Series(fit.posterior.mean[label], names).sort_values(ascending=False)
    assert dots(axes_titled(figure, "6 weights")) == weights.to_dict()
    cloud = axes_titled(figure, "Observed against fitted, 80 rows").lines[1]
    np.testing.assert_array_equal(cloud.get_xydata(), np.column_stack([fit.predict(), data["y"]]))


def test_many_weights_are_drawn_without_names():
    fit = fit_model(LinearModel(Gaussian(), Flat(np.ones(N)) + Ridge(X), DATA["y"].to_numpy()))
    ax = axes_titled(plots.overview(fit), "60 weights of ridge")
    assert len(ax.get_yticks()) == 0
    drawn = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_array_equal(drawn, np.sort(fit.posterior.mean["ridge"])[::-1])


def test_the_latent_values_of_a_program():
    """Given τ, θ_j | y ~ N with precision 1/τ² + 1/s_j² around a shrunken y_j, and μ is known here."""
    numpyro = pytest.importorskip("numpyro")
    y, s, tau = np.array([2.0, -1.0, 4.0]), np.array([1.0, 0.5, 2.0]), 1.5

    def schools():
        scale = numpyro.param("tau", 1.0, constraint=numpyro.distributions.constraints.positive)
        with numpyro.plate("school", 3):
            effect = numpyro.sample("effect", numpyro.distributions.Normal(0, scale))
            numpyro.sample("y", numpyro.distributions.Normal(effect, s), obs=y)

    fit = marglik.fit(schools, fixed={"tau": tau})
    figure = plots.overview(fit)
    assert figure.get_suptitle() == "schools"
    ax = axes_titled(figure, "3 latent values")
    precision = 1 / tau**2 + 1 / s**2
    assert list(dots(ax)) == ["effect[0]", "effect[1]", "effect[2]"]
    np.testing.assert_allclose(list(dots(ax).values()), y / s**2 / precision, rtol=1e-6)
    half = [(b - a) / 2 for a, b in bars(ax).values()]
    np.testing.assert_allclose(half, 1.959964 / np.sqrt(precision), rtol=1e-6)
    assert "1.5, held" in [t.get_text() for t in axes_titled(figure, "Hyperparameters").texts]


def test_targets_are_counted():
    Y = X[:, :1] * np.linspace(0, 1, 90) + rng.standard_normal((N, 90))
    fit = fit_model(LinearModel(Gaussian(), Flat(np.ones(N)) + Ridge(X[:, :5]), Y))
    figure = plots.overview(fit)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    titles = [ax.get_title(loc="left") for ax in shown]
    assert [t.partition(":")[0] for t in titles] == [
        "log evidence (nats)",
        "sd(weights)",
        "sd(noise)",
        "edf of ridge",
    ]
    assert titles[1].endswith(f"{(fit.optimum.theta[:, 0] == 0).sum()} at zero")
    for ax in shown:
        assert sum(bar.get_height() for bar in ax.patches) == 90


@pytest.mark.filterwarnings("ignore:Target:UserWarning")
def test_targets_that_could_not_be_learned_are_said_and_not_drawn():
    prior, constant = Flat(np.ones(N)) + Ridge(X[:, :5]), np.ones((N, 1))
    fit = fit_model(LinearModel(Gaussian(), prior, np.hstack([X[:, :3], constant])))
    figure, total = plots.overview(fit), fit.log_evidence[:3].sum()
    assert figure.subfigs[0].get_suptitle() == (
        f"4 targets, total log evidence {total:,.2f} nats without one target that could not be learned".replace(
            "-", "−"
        )
    )
    for ax in figure.axes:
        assert "nan" not in ax.get_title(loc="left")
        assert not ax.get_visible() or sum(bar.get_height() for bar in ax.patches) == 3
    none = plots.overview(fit_model(LinearModel(Gaussian(), prior, np.hstack([constant, constant]))))
    assert none.subfigs[0].get_suptitle() == "2 targets, none of which could be learned"
    assert not none.axes


@pytest.fixture(scope="module")
def trials():
    draws = np.random.default_rng(5)
    size = draws.integers(3, 14, N)
    successes = draws.binomial(size, 1 / (1 + np.exp(2 - DATA["x"])))
    return DATA.assign(successes=successes, failures=size - successes)


def test_counts_of_successes_are_drawn_as_proportions(trials):
    fit = marglik.fit("cbind(successes, failures) ~ x + z", trials, family="binomial")
    share = trials["successes"] / (trials["successes"] + trials["failures"])
    cloud = axes_titled(plots.overview(fit), "Observed proportions against fitted, 80 rows").lines[1]
    np.testing.assert_array_equal(cloud.get_xydata(), np.column_stack([fit.predict(), share]))
    figure = plots.overview(marglik.fit("cbind(successes, failures) ~ x + (1 | g)", trials, family="binomial"))
    ax, mine = next(ax for ax in figure.axes if ax.texts and ax.texts[0].get_text() == "3"), trials["g"] == 3
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.column_stack([trials["x"], share])[mine])
    (left, _) = figure.subfigs[0].subfigs
    assert left.get_supylabel() == "successes / (successes + failures)"


def wide(n):
    draws = np.random.default_rng(2)
    data = pd.DataFrame(draws.standard_normal((N, n)), columns=[f"column{i}" for i in range(n)])
    return data.assign(y=data @ np.linspace(0, 2, n) + draws.standard_normal(N), g=np.arange(N) % 34)


MANY = {
    "fixed effects": lambda: marglik.fit("y ~ " + " + ".join(wide(45).columns[:45]), wide(45)),
    "hyperparameters": lambda: marglik.fit(f"y ~ ard({', '.join(wide(25).columns[:25])})", wide(25)),
    "levels": lambda: marglik.fit("y ~ column0 + column1 + column2 + (1 | g)", wide(3)),
    "targets": lambda: fit_model(
        LinearModel(
            Gaussian(), Ridge(X[:, :15], groups=np.arange(15), scales=[f"sd(x{i})" for i in range(15)]), X[:, :2]
        )
    ),
}


@pytest.mark.parametrize("what", MANY)
def test_many_rows_make_a_taller_picture_not_smaller_letters(what):
    figure = plots.overview(MANY[what]())
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for ax in (ax for ax in figure.axes if ax.get_visible()):
        names, ticks, titles = ax.get_yticklabels(), ax.get_xticklabels(), [ax.title, ax._left_title]
        words = [t for t in (*names, *ticks, *ax.texts, *titles) if t.get_text().strip()]
        assert all(t.get_fontsize() >= 6.5 for t in words)
        for column in (names, ax.texts):
            boxes = sorted((t.get_window_extent(renderer) for t in column if t.get_text()), key=lambda box: box.y0)
            assert all(below.y1 <= above.y0 + 0.5 for below, above in pairwise(boxes))
    assert figure.get_figheight() < 14


def test_of_many_effects_those_best_determined_are_drawn_in_their_order():
    fit = MANY["fixed effects"]()
    ax, table = axes_titled(plots.overview(fit), "Fixed effects"), fit.fixed_effects
    ratio = (table["estimate"] / table["se"]).abs()
    best = ratio.sort_values(ascending=False).index[:30]
    assert list(dots(ax)) == [name for name in table.index if name in best]
    assert ax.get_xlabel() == "the 30 best determined; 16 more in fit.fixed_effects"


def test_of_many_numbers_a_target_it_is_said_how_many_are_left_out():
    figure = plots.overview(MANY["targets"]())
    assert len(figure.axes) == 12
    assert figure.subfigs[0].get_supxlabel().startswith("and 5 more in fit.hyperparameters")


def test_title_and_evidence(sleep):
    figure = plots.overview(sleep)
    assert figure.get_suptitle() == "Reaction ~ Days + (1 | Subject)"
    (body,) = figure.subfigs
    assert body.get_suptitle() == "log evidence −893.23 nats, exact, fixed effects integrated (REML)"


@pytest.fixture(scope="module")
def small():
    return marglik.fit("y ~ x + (1 | g)", DATA)


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_the_same_fit_gives_the_same_bytes(small, kind, tmp_path):
    starts = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
    for name in ("once", "twice"):
        small.plot(tmp_path / f"{name}.{kind}")
    once, twice = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("once", "twice"))
    assert once == twice
    assert once.startswith(starts[kind])


@pytest.mark.parametrize("fit", ["sleep", "slopes"])
def test_nothing_leaves_the_picture_and_no_labels_collide(fit, request):
    figure = plots.overview(request.getfixturevalue(fit))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    frame = figure.bbox.padded(0.5)
    renderer = canvas.get_renderer()
    for ax in figure.axes:
        boxes = [t.get_window_extent(renderer) for t in (*ax.texts, *ax.get_yticklabels()) if t.get_text().strip()]
        for i, box in enumerate(boxes):
            assert frame.x0 <= box.x0
            assert box.x1 <= frame.x1
            assert frame.y0 <= box.y0
            assert box.y1 <= frame.y1
            assert not any(box.overlaps(other) for other in boxes[:i])
        ticks = [t.get_window_extent(renderer) for t in ax.get_xticklabels() if t.get_text() and t.get_visible()]
        low, high = ax.bbox.x0 - 1, ax.bbox.x1 + 1
        ticks = [b for b in ticks if low <= (b.x0 + b.x1) / 2 <= high]
        assert not any(a.overlaps(b) for i, a in enumerate(ticks) for b in ticks[:i])


def test_notebooks_show_the_figure(small):
    assert plots.overview(small)._repr_png_().startswith(b"\x89PNG")


def test_an_ending_that_is_none(sleep, tmp_path):
    with pytest.raises(ValueError) as refused:
        sleep.plot(tmp_path / "a.jpg")
    assert str(refused.value) == (
        f"Pictures end in .svg, .png, .pdf, but the path is '{tmp_path}/a.jpg'. Give it one of these."
    )


def test_without_matplotlib(sleep, monkeypatch):
    monkeypatch.setattr(sheet, "find_spec", lambda name: None)
    with pytest.raises(ImportError) as refused:
        sleep.plot()
    assert str(refused.value) == ("Pictures need matplotlib, which is not installed: pip install 'marglik[plot]'.")
