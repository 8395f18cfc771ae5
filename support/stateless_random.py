"""Randomness without state: computes any single draw, or any single place of a shuffle.

A generator must draw 999,999 numbers before its millionth. Here each number is a hash of its key
(SplitMix64: Steele et al., 2014, "Fast splittable pseudorandom number generators"), so the numbers
of step 1,000,000 cost as much as those of step 0, in any order and on any host.
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = np.arange(6, dtype=np.uint64) * _GOLDEN  # array arithmetic wraps without a warning


def _mix(x: np.ndarray) -> np.ndarray:
  """Applies SplitMix64's output function to each uint64."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def keys(*parts: int | np.ndarray) -> np.ndarray:
  """Hashes tuples of non-negative integers to uint64 keys.

  Args:
    parts: the integers, or arrays of them that broadcast against each other.

  Returns:
    [1] or the broadcast shape: one key per tuple.
  """
  key = np.zeros(1, np.uint64)
  for part in parts:
    key = _mix((key ^ _mix(np.atleast_1d(part).astype(np.uint64) + _GOLDEN)) + _GOLDEN)
  return key


def uniform(key: np.ndarray, count: int) -> np.ndarray:
  """Draws [n, count] float64 in [0, 1) for [n] keys, independent for every key and column."""
  state = key[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)
  return (_mix(state) >> np.uint64(11)) * 2.0**-53


def permute(places: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
  """Returns the entries at `places` of a random permutation of range(size).

  No other entry is computed: a Feistel network permutes the integers below the next power of 4,
  and is applied until its result lies in range(size) (Black and Rogaway, 2002, "Ciphers with
  arbitrary finite domains").

  Args:
    places: [n] int64 in range(size).
    size: length of the permutation.
    key: [n] or [1] uint64; equal keys mean the same permutation.

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
