"""Several processes, one order."""

import itertools
import os
import signal
import time

import pytest

from support import workers
from support.errors import UserError


def slow_first(item):
  if item == 0:
    time.sleep(0.5)  # the others are done before
  return item, os.getpid()


def fail_at_three(item):
  if item == 3:
    raise UserError("three")
  return item


def die_at_three(item):
  if item == 3:
    os._exit(1)
  return item


def test_results_come_in_order_from_other_processes():
  results = list(workers.ordered_map(slow_first, range(9), 2, ""))
  assert [item for item, _ in results] == list(range(9))
  pids = {pid for _, pid in results}
  assert len(pids) == 2
  assert os.getpid() not in pids
  assert {pid for _, pid in workers.ordered_map(slow_first, range(3), 1, "")} == {os.getpid()}


def test_items_are_taken_as_they_are_needed():
  taken = []
  items = (taken.append(i) or i for i in itertools.count())
  results = workers.ordered_map(slow_first, items, 2, "")
  next(results)
  assert len(taken) <= 5  # two a worker, and one that waits
  results.close()  # and the workers are gone, or this test would not end


def test_an_error_in_a_worker_is_raised_here():
  with pytest.raises(UserError, match="three"):
    list(workers.ordered_map(fail_at_three, range(9), 2, ""))


def test_a_dead_worker_is_an_error():
  with pytest.raises(UserError, match="a worker process died, .*memory; buy some"):
    list(workers.ordered_map(die_at_three, range(9), 2, "buy some"))


def die_sending_two(item):
  if item != 2:
    return item
  signal.setitimer(signal.ITIMER_REAL, 0.3)  # the alarm ends this process
  return bytes(4_000_000)  # more than a pipe holds


def test_a_worker_that_dies_while_it_sends_a_result_is_an_error():
  def items():
    yield from range(3)
    time.sleep(1)  # nothing is received meanwhile
    yield 3

  with pytest.raises(UserError, match="a worker process died, .*memory; buy some"):
    list(workers.ordered_map(die_sending_two, items(), 2, "buy some"))
