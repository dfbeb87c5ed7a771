"""Boundary F1: counted by hand, and what it must not depend on."""

import numpy as np
import pytest

from cdm_export.evaluate.boundaries import boundary_f1


def step(column, near=1.0, far=2.0, width=8):
    depth = np.full((4, width), near)
    depth[:, column:] = far
    return depth


EVERYWHERE = np.ones((4, 8), bool)


def test_the_same_and_another_place():
    assert boundary_f1(step(4), step(4), EVERYWHERE) == pytest.approx(1)
    assert boundary_f1(step(5), step(4), EVERYWHERE) == 0


def test_by_hand():
    """One edge of four pixels is found, one of four is not: precision 1, recall 1/2."""
    truth = step(2)
    truth[:, 6:] = 1.0
    assert boundary_f1(step(2), truth, EVERYWHERE) == pytest.approx(2 / 3)


def test_near_and_far_are_not_swapped():
    assert boundary_f1(step(4, near=2.0, far=1.0), step(4), EVERYWHERE) == 0


def test_clear_edges_count_more():
    """An edge of 12 % is none at ratios from 1.1278 on: those at which it is one have weights of their own."""
    ratios = np.linspace(1.05, 1.25, 10)
    share = ratios[ratios < 1.12].sum() / ratios.sum()
    assert boundary_f1(step(4, far=1.12), step(4), EVERYWHERE) == pytest.approx(share)
    assert 0.3 < share < 0.4


def test_scale_does_not_matter_and_neither_does_what_has_no_truth():
    rng = np.random.default_rng(0)
    depth, truth = rng.uniform(1, 3, (2, 20, 30))
    mask = rng.random((20, 30)) < 0.7
    value = boundary_f1(depth, truth, mask)
    assert 0 < value < 1
    assert boundary_f1(depth * 7, truth * 0.1, mask) == pytest.approx(value)
    assert boundary_f1(np.where(mask, depth, 99), np.where(mask, truth, np.nan), mask) == value
    assert boundary_f1(depth.T, truth.T, mask.T) == pytest.approx(value)


def test_nothing_to_find():
    assert boundary_f1(step(4), np.ones((4, 8)), EVERYWHERE) is None
