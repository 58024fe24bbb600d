# SPDX-License-Identifier: BSD-3-Clause
import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

import marglik
from marglik import Flat, Gaussian, LinearModel, Ridge
from marglik.fitting import fit_model
from marglik.report.text import aligned, decimals, fixed, html, number, page, shortened, summary, tables

N = 60
rng = np.random.default_rng(0)
GROUP = np.arange(N) % 6
DATA = pd.DataFrame(
    {
        "y": rng.standard_normal(N) + 2 * np.cos(GROUP),
        "count": rng.poisson(3, N),
        "x": rng.standard_normal(N),
        "big": 1e6 * rng.standard_normal(N),
        "g": GROUP,
        "<i>": rng.standard_normal(N),
    }
)
DATA["even"] = DATA["x"] - DATA.groupby("g")["x"].transform("mean")
X = rng.standard_normal((N, 4))
TARGETS = X[:, :1] * np.linspace(0, 1, 40) + rng.standard_normal((N, 40))


def _many():
    return fit_model(LinearModel(Gaussian(), Flat(np.ones(N), ["Intercept"]) + Ridge(X), TARGETS))


FITS = {
    "groups": lambda: marglik.fit("y ~ x + (1 | g)", DATA),
    "boundary": lambda: marglik.fit("even ~ 1 + (1 | g)", DATA),
    "held": lambda: marglik.fit("y ~ x + (1 | g)", DATA, fixed={"sd(noise)": 0.75}),
    "no fixed effects": lambda: marglik.fit("y ~ 0 + ridge(x, big)", DATA),
    "ridge": lambda: marglik.fit("y ~ " + " + ".join(f"ridge({c})" for c in ("x", "big", "`<i>`")), DATA),
    "poisson": lambda: marglik.fit("count ~ x + (1 | g)", DATA, family="poisson"),
    "poisson, maximum likelihood": lambda: marglik.fit("count ~ x + (1 | g)", DATA, family="poisson", reml=False),
    "nothing to learn": lambda: marglik.fit("count ~ x", DATA, family="poisson"),
    "targets": _many,
}


@pytest.fixture(params=FITS, scope="module")
def fit(request):
    return FITS[request.param]()


SLEEP = """\
Reaction ~ Days + (1 | Subject)
data          gaussian, identity link; 180 rows, 18 levels of Subject
log evidence  -893.2325 nats (-2 x it: 1786.4651), exact; converged in {steps}
criterion     fixed effects integrated: -2 x it is lme4's REML criterion

Hyperparameters           estimate     se   95 % from      to
─────────────────────────────────────────────────────────────
sd(Intercept | Subject)      37.12   6.81       25.91   53.19
sd(noise)                    30.99   1.73       27.78   34.57

Fixed effects   estimate      se   95 % from        to
──────────────────────────────────────────────────────
Intercept         251.41    9.75      232.30    270.51
Days              10.467   0.804       8.891    12.044

edf    fixed effects 2.00, (1 | Subject) 15.89
occam  fit -864.53, fixed effects +2.46, (1 | Subject) -32.53, overlap +1.37 =
       -893.23 nats

The evidence is at a maximum and is exact."""


def test_the_summary_of_the_sleep_study(sleepstudy):
    """lme4 prints 1786.465, 37.12, 30.99, 251.4051 (9.7467) and 10.4673 (0.8042)."""
    fit = marglik.fit("Reaction ~ Days + (1 | Subject)", sleepstudy)
    assert summary(fit) == SLEEP.format(steps="one step" if fit.n_iterations == 1 else f"{fit.n_iterations} steps")
    assert repr(fit) == fit.summary() == summary(fit)


@pytest.fixture(scope="module")
def sleepstudy():
    from pathlib import Path

    return Path(__file__).parents[2] / "examples" / "sleepstudy.csv"


def test_eighty_columns_without_control_characters(fit):
    lines = summary(fit).split("\n")
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)
    assert "\x1b" not in summary(fit)


def test_the_numbers_are_those_of_the_frames(fit):
    if fit._many:
        return
    frames = {"Hyperparameters": fit.hyperparameters, "Fixed effects": None}
    for table in tables(fit):
        frame = frames[table.head[0]] if table.head[0] == "Hyperparameters" else fit.fixed_effects
        assert {row[0] for row in table.rows} == set(map(str, frame.index))
        for name, *cells in table.rows:
            for cell, column in zip(cells, ("estimate", "se", "lower", "upper"), strict=True):
                if cell.strip() in ("held", "boundary", ""):
                    continue
                shown, true = float(cell), frame.loc[name, column]
                spacing = 10.0 ** -len(cell.strip().partition(".")[2].partition("e")[0])
                assert abs(shown - true) <= 0.51 * spacing * (abs(true) if "e" in cell else 1), (name, column)


def test_decimal_points_stand_above_each_other(fit):
    for table in tables(fit):
        for cells in list(zip(*table.rows, strict=True))[1:]:
            points = {len(c) - c.index(".") for c in cells if re.fullmatch(r"-?\d+\.\d+ *", c)}
            assert len(points) <= 1
            assert len({len(c) - len(c.rstrip()) for c in cells if "." not in c and c.strip().isdigit()}) <= 1


def test_standard_errors_have_three_digits():
    for se, places in ((6.81, 2), (0.804, 3), (12.3, 1), (123.0, 0), (1e5, 0), (0.00123, 5)):
        assert decimals(se) == places
        assert len(fixed(se, places).replace(".", "").strip("0")) <= max(3, len(str(int(se))))
    assert decimals(float("nan")) == decimals(0.0) == 3


@pytest.mark.parametrize(
    ("x", "places", "text"),
    [
        (1.005, 1, "1.0"),
        (-0.0004, 3, "0.000"),
        (-0.0006, 3, "-0.001"),
        (float("inf"), 2, "∞"),
        (-float("inf"), 2, "-∞"),
        (123456789.0, 0, "1.235e+08"),
        (1.5e-9, 11, "1.500e-09"),
    ],
)
def test_numbers_to_so_many_decimals(x, places, text):
    assert fixed(x, places) == text


def test_numbers_by_themselves():
    assert [number(x) for x in (0.3, 0.75, 1e-5, 12345.6, 2.50004)] == ["0.3", "0.75", "1.000e-05", "12346", "2.5"]
    assert number(0.57274, 3) == "0.573"


def test_alignment():
    assert aligned(["1.25", "10.5", "-3", "held", "1.000e-05"]) == ["1.25", "10.5 ", "-3   ", "held", "1.000e-05"]


def test_long_names_lose_their_middle():
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghijk", 10) == "abcde…hijk"


def test_a_boundary_is_zero_and_says_so():
    fit = FITS["boundary"]()
    (row,) = [r for r in tables(fit)[0].rows if r[0] == "sd(Intercept | g)"]
    upper = fit.hyperparameters.loc["sd(Intercept | g)", "upper"]
    assert [cell.strip() for cell in row[1:]] == ["0", "boundary", "0", f"{upper:.3g}"]
    assert "sd(Intercept | g) is at zero" in " ".join(summary(fit).split())


def test_what_is_held_says_so_and_comes_last():
    rows = tables(marglik.fit("y ~ x + (1 | g)", DATA, fixed={"sd(Intercept | g)": 0.75}))[0].rows
    assert [r[0] for r in rows] == ["sd(noise)", "sd(Intercept | g)"]
    assert [c.strip() for c in rows[1][1:]] == ["0.75", "held", "", ""]


def test_a_correlation_that_is_held_or_at_its_end():
    name = "cor(Intercept, x | g)"
    held = tables(marglik.fit("y ~ x + (x | g)", DATA, fixed={name: 0.25}))[0].rows
    assert [c.strip() for c in held[-1]] == [name, "0.25", "held", "", ""]
    fit = marglik.fit("y ~ x + (x | g)", DATA.assign(y=DATA["g"].astype(float) * (1 + DATA["x"]) + DATA["big"] / 1e6))
    assert fit.hyperparameters.loc[name, "estimate"] == 1
    (end,) = [r for r in tables(fit)[0].rows if r[0] == name]
    assert [c.strip() for c in end[1:]] == ["1", "boundary", f"{fit.hyperparameters.loc[name, 'lower']:.3g}", "1"]


def test_notes_and_criteria_are_told():
    holes = DATA.assign(x=DATA["x"].where(DATA.index > 2))
    facts = dict(page(marglik.fit("y ~ x", holes, missing="drop")).facts)
    assert facts["note"] == "3 of 60 rows dropped: missing values"
    assert facts["data"] == "gaussian, identity link; 57 rows"
    assert dict(page(FITS["poisson"]()).facts)["criterion"] == (
        "fixed effects integrated (REML); lme4's glmer and glmmTMB print the one with reml=False"
    )
    assert dict(page(FITS["nothing to learn"]()).facts)["log evidence"].endswith("laplace; nothing to learn")


def test_the_parts_add_up():
    fit = FITS["ridge"]()
    sums = dict(page(fit).sums)
    terms = [float(x) for x in re.findall(r"(?<= )[+-]?\d+\.\d\d", sums["occam"])]
    assert sum(terms[:-1]) == pytest.approx(terms[-1], abs=0.03)
    assert terms[-1] == pytest.approx(fit.log_evidence, abs=0.005)
    edf = [float(x) for x in re.findall(r"(?<= )\d+\.\d\d", sums["edf"])]
    np.testing.assert_allclose(edf, fit.edf, atol=0.005)


def test_many_targets_are_shown_by_quantiles():
    fit = _many()
    (table,) = tables(fit)
    assert table.head == ("40 targets", "lowest", "5 %", "median", "95 %", "highest", "at zero")
    rows = {name: cells for name, *cells in table.rows}
    for name, column in (("sd(weights)", 0), ("sd(noise)", 1)):
        theta = fit.optimum.theta[:, column]
        expected = np.quantile(theta, [0, 0.05, 0.5, 0.95, 1])
        np.testing.assert_allclose([float(c) for c in rows[name][:5]], expected, atol=0.0051)
        assert int(rows[name][5]) == (theta == 0).sum()
    expected = np.quantile(fit.log_evidence, [0, 0.05, 0.5, 0.95, 1])
    np.testing.assert_allclose([float(c) for c in rows["log evidence"][:5]], expected, atol=0.051)
    assert dict(page(fit).facts)["learning"] == "exact; all converged"
    assert repr(fit) == "<Fit of 40 targets by exact>"


@pytest.mark.filterwarnings("ignore:Target:UserWarning")
def test_targets_that_could_not_be_learned_are_said_and_left_out():
    """A constant is all intercept, so its noise goes to zero and it has no evidence."""
    constant, prior = np.ones((N, 1)), Flat(np.ones(N), ["Intercept"]) + Ridge(X)
    mixed = fit_model(LinearModel(Gaussian(), prior, np.hstack([TARGETS[:, :3], constant])))
    (table,), (alone,) = tables(mixed), tables(fit_model(LinearModel(Gaussian(), prior, TARGETS[:, :3])))
    assert table.head[0] == "3 of 4 targets"
    assert table.rows == alone.rows
    assert dict(page(mixed).facts)["learning"] == "exact; one target could not be learned"
    none = fit_model(LinearModel(Gaussian(), prior, np.hstack([constant, 2 * constant])))
    assert tables(none) == []
    assert "exact; 2 targets could not be learned" in summary(none)


def test_tables_of_many_columns_end_with_how_many_more_there_are():
    codes = pd.DataFrame({"k": np.arange(N) % 50, "y": DATA["y"]})
    hyperparameters, effects = tables(marglik.fit("y ~ C(k)", codes))
    assert hyperparameters.more == ""
    assert len(effects.rows) == 40
    assert effects.more == "and 10 more: fit.fixed_effects"
    assert "  and 10 more: fit.fixed_effects" in summary(marglik.fit("y ~ C(k)", codes))


def test_long_hyperparameters_fit():
    names = [f"a_rather_long_name_{i}" for i in range(8)]
    fit = marglik.fit(f"y ~ ridge({', '.join(names)})", DATA.assign(**dict.fromkeys(names, DATA["x"])))
    assert max(map(len, summary(fit).split("\n"))) <= 80


def test_an_unconverged_fit_is_not_presented_as_one():
    fit = FITS["groups"]()
    optimum = dataclasses.replace(fit.optimum, converged=np.array([False]))
    stopped = dataclasses.replace(fit, optimum=optimum)
    assert not page(stopped).sound
    assert "not converged in" in summary(stopped)
    assert "Do not trust these numbers" in summary(stopped)
    assert '<p class="bad">Do not trust' in html(stopped)


class _Reader(HTMLParser):
    """Cells of tables, and whether every tag was closed."""

    def __init__(self):
        super().__init__()
        self.open, self.tables, self.tags, self.hidden = [], [], set(), False

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def test_html_has_the_same_tables(fit):
    reader = _Reader()
    reader.feed(html(fit))
    assert not reader.open
    expected = [[list(t.head), *([c.rstrip() for c in row] for row in t.rows)] for t in tables(fit)]
    assert reader.tables == expected
    assert fit._repr_html_() == html(fit)


def test_html_is_self_contained_and_escaped():
    text = html(FITS["ridge"]())
    reader = _Reader()
    reader.feed(text)
    assert reader.tags <= {"div", "style", "p", "b", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th", "td", "i"}
    assert "&lt;i&gt;" in text
    assert "<i>" not in text.replace('<i aria-hidden="true">', "")
    assert "http" not in text
    assert "url(" not in text


def test_html_takes_the_colours_of_its_page():
    """Nothing but a warning has a colour of its own, so that it reads on white and on black."""
    style = html(FITS["groups"]()).partition("<style>")[2].partition("</style>")[0]
    assert re.findall(r"#[0-9a-f]{3,6}", style) == ["#d55e00"]
    assert "color:inherit" in style
