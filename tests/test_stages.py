# SPDX-License-Identifier: BSD-3-Clause
"""Stages in which draws are held: when they end."""

from types import SimpleNamespace

import numpy as np
import pytest

from marglik import learn, stages
from marglik.evidence import Evidence


def drawn(monkeypatch, peak, std_error, checks=()):
    """An evidence −½(θ − m)² whose maximum m moves with where the draws were made; θ is found exactly each time."""
    visited = []

    def maximise(objective, theta, free):
        m = peak(float(theta[0, 0]))
        visited.append(m)
        value = np.array([0.0])
        trace = [-((theta[:, 0] - m) ** 2) / 2, value]
        yes, no = np.ones(1, bool), np.zeros((1, 1), bool)
        return learn.Optimum(np.array([[m]]), value, 0 * theta, -np.ones((1, 1, 1)), ~no, no, yes, 1, trace)

    monkeypatch.setattr(stages.learn, "maximise", maximise)
    objective = SimpleNamespace(
        evidence=lambda theta: Evidence(np.zeros(1), np.zeros((1, 1)), std_error=std_error, checks=dict(checks))
    )
    start = SimpleNamespace(theta=np.array([[1.0]]), free=np.ones((1, 1), bool), limit=np.zeros((1, 1), bool))
    return stages.climbed(objective, start), visited


def around(theta):
    """Two places, each of which sends to the other: drawing anew gains ½ 0.2² = 0.02 nats for ever."""
    return 0.1 if theta < 0 or theta == 1.0 else -0.1


def test_stages_end_where_drawing_anew_gains_nothing(monkeypatch):
    found, visited = drawn(monkeypatch, lambda theta: 0.05 * theta, 0.0)
    assert found.converged.all()
    assert len(visited) == found.n_iterations == 3
    np.testing.assert_allclose(found.theta, 0.05**3)


def test_stages_that_go_in_circles_end_where_the_draws_cannot_tell(monkeypatch):
    found, visited = drawn(monkeypatch, around, 0.03)
    assert found.converged.all()
    assert visited == [0.1, -0.1, 0.1]


@pytest.mark.parametrize(("std_error", "checks"), [(0.01, ()), (0.03, (("draws", "k̂ is too high."),))])
def test_what_sound_draws_can_tell_is_not_called_converged(monkeypatch, std_error, checks):
    found, visited = drawn(monkeypatch, around, std_error, checks)
    assert not found.converged.any()
    assert len(visited) == stages.MOST_STAGES


def test_a_wide_circle_is_not_called_converged(monkeypatch):
    found, _ = drawn(monkeypatch, lambda theta: 0.5 * around(theta) / 0.1, 5.0)
    assert not found.converged.any()
