# SPDX-License-Identifier: BSD-3-Clause
"""The tour prints what the textbook computes, fits its page, and draws the same pictures every time."""

import io
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from marglik import textbook as tb
from marglik.report import tour as module
from marglik.report.tour import NOISE_SD, NOISY_SD, X, Y, tour

SLUGS = ["1-evidence", "2-occam", "3-monte-carlo", "4-joint", "5-boundary"]
AXES = {
    "1-evidence": ["squared time x", "distance y", "prior scale σ", "log p(y|σ)  (nats)"],
    "2-occam": ["prior scale σ", "nats"],
    "3-monte-carlo": ["number of weights d", "estimate − exact log evidence  (nats)", "nats"],
    "4-joint": ["weight w", "prior scale σ", "w = σ", "log p(y, w|σ)  (nats)"],
    "5-boundary": ["noise δ", "slope, or its prior scale", "prior scale σ", "log p(y|σ) − log p(y|0)  (nats)"],
}


def printed(width=100, out=None, **options):
    page = io.StringIO()
    paths = tour(out, console=Console(file=page, width=width), **options)
    return page.getvalue(), paths


@pytest.fixture(scope="module")
def text():
    return printed()[0]


@pytest.fixture(scope="module")
def stations(text):
    parts = re.split(r"^\d\. .*$", text, flags=re.MULTILINE)
    assert len(parts) == 6
    return parts


def row(station, name):
    """The numbers of the table row that begins with a name."""
    line = next(line for line in station.splitlines() if line.strip().startswith(name))
    return [float(word.replace(",", "")) for word in line.strip().removeprefix(name).split()]


def test_the_sums_of_the_data(stations):
    _, v, m, c = tb.scalar_statistics(X, Y)
    assert f"v = Σ y² = {v:.2f}, m = Σ xy = {m:.1f}, c = Σ x² = {c:g}" in stations[0]
    assert row(stations[0], "x  ") == list(X)
    assert row(stations[0], "y  ") == list(Y)


def test_station_one_prints_the_evidence_and_its_maximum(stations):
    best = tb.scalar_prior_variance(X, Y, NOISE_SD**2)
    sd = np.array([0, 0.5, 1, best**0.5, 5, 50])
    expected = tb.scalar_log_evidence(X, Y, sd**2, NOISE_SD**2)
    assert row(stations[1], "log p(y|σ)") == pytest.approx(expected, abs=0.005)
    assert f"{best:.4f}, so σ̂ = {best**0.5:.4f}" in stations[1]


def test_station_one_charts_the_maximum_where_it_is(stations):
    lines = stations[1].splitlines()
    best = tb.scalar_prior_variance(X, Y, NOISE_SD**2) ** 0.5
    top = next(line for line in lines if "█" in line)
    mark = next(line for line in lines if "▲" in line).index("▲")
    assert top[mark] == "█"
    assert (mark - 8) / 65 == pytest.approx(np.log(best / 0.1) / np.log(1e4), abs=0.01)


def test_station_two_adds_up(stations):
    for sd in ("0.1", "0.5", "5", "500"):
        found = row(stations[2], f"{sd} ")
        best_fit, misfit, occam = tb.scalar_decomposition(X, Y, float(sd) ** 2, NOISE_SD**2)
        assert found == pytest.approx([best_fit, misfit, occam, best_fit + misfit + occam], abs=0.005)
    best = tb.scalar_prior_variance(X, Y, NOISE_SD**2)
    cost = tb.scalar_decomposition(X, Y, best, NOISE_SD**2).best_fit - tb.scalar_log_evidence(X, Y, best, NOISE_SD**2)
    assert f"costs {cost:.2f} nats" in stations[2]


def test_station_three_prints_estimates_and_the_truth(stations):
    """The draws made again, without the tour."""
    d2 = NOISY_SD**2
    best = tb.scalar_prior_variance(X, Y, d2)
    draws = np.random.default_rng(1).normal(0, best**0.5, (50, module.N_DRAWS)).T
    per_weight = tb.scalar_log_likelihood(X, Y, draws, d2)
    for d in module.DIMENSIONS:
        exact, estimate, std_error, error, effective, _ = row(stations[3], f"{d} ")
        log_likelihood = per_weight[:, :d].sum(axis=1)
        expected = tb.simple_monte_carlo(log_likelihood, draws)
        assert (estimate, std_error) == pytest.approx(expected, abs=0.0051)
        assert exact == pytest.approx(d * tb.scalar_log_evidence(X, Y, best, d2), abs=0.0051)
        assert error == pytest.approx(expected.log_evidence - exact, abs=0.011)
        assert effective == pytest.approx(tb.effective_sample_size(log_likelihood), abs=0.51)


def test_station_three_shows_the_failure(stations):
    first, last = row(stations[3], "1 "), row(stations[3], "50 ")
    assert abs(first[3]) < 4 * first[2]
    assert last[3] < -50 * last[2]
    assert last[2] <= 1
    assert last[5] < last[3]


def test_station_four_prints_the_ridge(stations):
    d2 = NOISY_SD**2
    mode = tb.scalar_joint_mode(X, Y, d2).w
    w = np.array([mode, tb.scalar_ml(X, Y) - mode, 1e-2, 1e-4, 1e-8])
    assert row(stations[4], "w = σ  ") == pytest.approx(w, rel=5e-3)
    assert row(stations[4], "log p(y, w|σ)") == pytest.approx(tb.scalar_log_joint_ridge(X, Y, w, d2), abs=0.005)
    assert f"at w = {mode:.3f} is a local maximum" in stations[4]


def test_station_five_prints_the_identity_and_the_boundary(stations):
    limit = tb.scalar_signal(X, Y, 1.0) ** 0.5
    for sd, name in ((NOISE_SD, "0.5 "), (NOISY_SD, "5 "), (10.0, "10 "), (limit, f"{limit:.2f} "), (20.0, "20 ")):
        signal, shrunk, product, best, slope = row(stations[5], name)
        assert signal == pytest.approx(tb.scalar_signal(X, Y, sd**2), abs=0.005)
        assert best == pytest.approx(tb.scalar_prior_variance(X, Y, sd**2), abs=5e-5)
        assert product == best
        assert shrunk == pytest.approx(tb.scalar_map(X, Y, best, sd**2), abs=1e-4)
        assert slope == pytest.approx(tb.scalar_log_evidence_slope(X, Y, 0, sd**2), abs=5e-5)
        assert (best == 0) == (sd >= limit)
    assert f"boundary is at δ = {limit:.2f}" in stations[5]


@pytest.mark.parametrize("width", [80, 100])
def test_it_fits_the_page(width):
    text = printed(width)[0]
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_a_narrow_terminal_shortens_the_charts():
    """The words may wrap, the charts must not: six rows of columns, the first with its height."""
    rows = [line for line in printed(50)[0].splitlines() if "█" in line]
    assert len(rows) == 12
    assert max(map(len, rows)) <= 50


def test_piped_it_is_plain_text():
    run = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", "from marglik.report.tour import tour; tour()"],
        capture_output=True,
        check=True,
    )
    text = run.stdout.decode()
    assert "\x1b" not in text
    assert "5. The prior scale is the geometric mean" in text
    assert not run.stderr


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Every picture, with fewer draws for speed."""
    pytest.importorskip("matplotlib")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "N_DRAWS", 500)
        module._study.cache_clear()
        out = tmp_path_factory.mktemp("tour") / "made" / "here"
        text, paths = printed(out=out)
        for path in paths:
            assert f"wrote {path}" in text
        yield out, paths
    module._study.cache_clear()


def test_a_picture_a_station_in_both_formats(pictures):
    out, paths = pictures
    assert paths == [out / f"{slug}.{kind}" for slug in SLUGS for kind in ("svg", "png")]
    assert sorted(out.iterdir()) == sorted(paths)


@pytest.mark.parametrize("slug", SLUGS)
def test_drawings_say_what_their_axes_are(pictures, slug):
    svg = (pictures[0] / f"{slug}.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(svg)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 50
    words = {comment.strip() for comment in re.findall(r"<!--(.*?)-->", svg, re.DOTALL)}
    station = next(s for s in module.STATIONS if slug.endswith(s.slug))
    assert {station.title, *AXES[slug]} <= words


@pytest.mark.parametrize("slug", SLUGS)
def test_pixels_hold_a_picture(pictures, slug):
    from matplotlib.image import imread

    image = imread(pictures[0] / f"{slug}.png")[..., :3]
    station = next(s for s in module.STATIONS if slug.endswith(s.slug))
    assert image.shape[:2] == (round(200 * station.size[1]), round(200 * station.size[0]))
    ink = (image.min(axis=2) < 0.9).mean()
    assert 0.01 < ink < 0.6
    assert (image[:, :4] == 1).all(), "something is cut off at the left"
    assert (image[:, -4:] == 1).all(), "something is cut off at the right"


def test_the_same_tour_draws_the_same_bytes(pictures, tmp_path):
    _, again = printed(out=tmp_path)
    for path in again:
        assert path.read_bytes() == (pictures[0] / path.name).read_bytes(), path.name


def test_the_formats_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(module, "STATIONS", module.STATIONS[:1])
    assert printed(out=str(tmp_path), formats=["png"])[1] == [tmp_path / "1-evidence.png"]
    with pytest.raises(ValueError, match=r"formats has 'pdf'"):
        printed(out=tmp_path, formats=["svg", "pdf"])


def test_a_file_in_the_way(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        printed(out=tmp_path / "file")


def test_without_matplotlib_the_words_remain(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert printed()[1] == []
    with pytest.raises(ImportError, match=re.escape("`pip install 'marglik[plot]'`")):
        printed(out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_importing_the_tour_is_light():
    code = "import sys, marglik.report.tour; print(*(m for m in ('rich', 'matplotlib', 'pandas') if m in sys.modules))"
    assert not subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
