"""Draws that need no generator: bijections, uniformity, independence."""

import numpy as np
import pytest
import scipy.stats

from support import stateless_random


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 63, 64, 65, 1000, 4097])
def test_permute_is_a_bijection(size):
  key = stateless_random.keys(7, size)
  permuted = stateless_random.permute(np.arange(size), size, key)
  np.testing.assert_array_equal(np.sort(permuted), np.arange(size))
  some = np.arange(size)[::-2]  # any places, in any order, alone
  np.testing.assert_array_equal(stateless_random.permute(some, size, key), permuted[some])


def test_permutations_of_a_small_range_are_equally_likely():
  seen = [tuple(stateless_random.permute(np.arange(4), 4, stateless_random.keys(3, i)).tolist())
          for i in range(4800)]
  _, counts = np.unique(seen, axis=0, return_counts=True)
  assert len(counts) == 24
  assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_permute_leaves_no_order():
  """Neighbours, and two epochs of the same places, have nothing to do with each other."""
  one, two = (stateless_random.permute(np.arange(5000), 1 << 34, stateless_random.keys(0, epoch))
              for epoch in range(2))
  assert one.min() >= 0
  assert one.max() < 1 << 34
  assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.05
  assert abs(np.corrcoef(one, two)[0, 1]) < 0.05
  assert scipy.stats.kstest(one / (1 << 34), "uniform").pvalue > 1e-3


def test_a_place_of_several_permutations_at_once():
  keys = stateless_random.keys(1, np.array([5, 5, 9]))
  places = np.array([3, 4, 3])
  together = stateless_random.permute(places, 10, keys)
  alone = [stateless_random.permute(places[i:i + 1], 10, keys[i:i + 1])[0] for i in range(3)]
  np.testing.assert_array_equal(together, alone)


def test_uniform_draws():
  draws = stateless_random.uniform(stateless_random.keys(1, np.arange(400)), 300)
  assert draws.shape == (400, 300)
  assert draws.min() >= 0
  assert draws.max() < 1
  assert scipy.stats.kstest(draws.ravel(), "uniform").pvalue > 1e-3
  for a, b in ((draws[1:], draws[:-1]), (draws[:, 1:], draws[:, :-1])):
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.01
  np.testing.assert_array_equal(  # a key's numbers depend on nothing but the key
      stateless_random.uniform(stateless_random.keys(1, 17), 300)[0], draws[17])


def test_keys_tell_parts_apart():
  keys = [int(stateless_random.keys(*parts)[0]) for parts in
          ((1, 2), (2, 1), (1, 2, 0), (1,), (2,), (0, 1, 2), (1 << 32, 2))]
  assert len(set(keys)) == len(keys)
