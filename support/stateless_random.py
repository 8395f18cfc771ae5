"""Randomness without state: any draw, or any place of a shuffle, computed by itself.

A generator gives its millionth number only after the 999,999 before it. Here every number is a
hash of where it is used (SplitMix64: Steele et al., 2014, "Fast splittable pseudorandom number
generators"), so that step 1,000,000 costs what step 0 costs, in any order and on any host.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = np.arange(6, dtype=np.uint64) * _GOLDEN  # array arithmetic wraps without a warning


def _mix(x: np.ndarray) -> np.ndarray:
  """SplitMix64's output function, elementwise on uint64."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def keys(*parts: int | np.ndarray) -> np.ndarray:
  """uint64 keys of tuples of non-negative integers, which broadcast against each other."""
  key = np.zeros(1, np.uint64)
  for part in parts:
    key = _mix((key ^ _mix(np.atleast_1d(part).astype(np.uint64) + _GOLDEN)) + _GOLDEN)
  return key


def uniform(key: np.ndarray, count: int) -> np.ndarray:
  """[n] keys -> [n, count] float64 in [0, 1), independent for every key and column."""
  state = key[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
  return (_mix(state) >> np.uint64(11)) * 2.0**-53


def permute(places: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
  """What stands at `places` of a random permutation of range(size), without the rest of it.

  A Feistel network on the next power of 4, walked until it lands inside the range (Black and
  Rogaway, 2002, "Ciphers with arbitrary finite domains").

  Args:
    places: [n] int64 in range(size).
    size: length of the permutation.
    key: [n] or [1] uint64: which permutation each place is of.

  Returns:
    [n] int64; for one key a bijection of range(size).
  """
  half = np.uint64(((max(size, 2) - 1).bit_length() + 1) // 2)
  low = (np.uint64(1) << half) - np.uint64(1)
  x = np.asarray(places).astype(np.uint64)
  key = np.broadcast_to(key, x.shape)
  outside = np.arange(len(x))
  while len(outside):
    walking, its_key = x[outside], key[outside]
    left, right = walking >> half, walking & low
    for constant in _ROUNDS:
      left, right = right, left ^ (_mix(right ^ _mix(its_key + constant)) & low)
    x[outside] = (left << half) | right
    outside = outside[x[outside] >= size]
  return x.astype(np.int64)
