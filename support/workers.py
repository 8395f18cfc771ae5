"""A function over a stream of items in several processes: results in order, in bounded memory."""

from collections.abc import Callable, Generator, Iterable, Iterator
import contextlib
import multiprocessing
from multiprocessing import connection, resource_tracker
import signal
from typing import Any, TypeVar

from support.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], num_workers: int,
                remedy: str) -> Generator[Result, None, None]:
  """Yields function(item) for every item, in order.

  An item is taken once a worker waits for it, and no more than two a worker are on their way at
  any time. Closing the generator ends the workers.

  Pipes and not an executor: that one hangs where a worker is ended while an item is sent to it.

  Args:
    function: can be pickled; goes to each worker once.
    items: can be pickled.
    num_workers: processes, from 1; 1 works in this process.
    remedy: what to do about a worker that died for want of memory.

  Raises:
    UserError: a worker died.
    Exception: what the function raised.
  """
  if num_workers == 1:
    yield from map(function, items)
    return
  with _started(function, num_workers) as idle:
    busy: dict[connection.Connection, int] = {}
    done: dict[int, Result] = {}
    due = 0
    try:
      for number, item in enumerate(items):
        while not idle or number - due >= 2 * num_workers:
          _collect(idle, busy, done)
          while due in done:
            yield done.pop(due)
            due += 1
        worker = idle.pop()
        worker.send(item)
        busy[worker] = number
      while busy:
        _collect(idle, busy, done)
        while due in done:
          yield done.pop(due)
          due += 1
    except (EOFError, ConnectionError) as error:
      raise UserError(f"a worker process died, perhaps for want of memory; {remedy}") from error


@contextlib.contextmanager
def _started(function: Callable[[Any], Any],
             num_workers: int) -> Iterator[list[connection.Connection]]:
  """Worker processes that wait for items at the other end of the connections."""
  context = multiprocessing.get_context("spawn")
  processes, connections = [], []
  resource_tracker.ensure_running()  # started by a process's start, it would let interrupts in
  try:
    for _ in range(num_workers):
      ours, theirs = context.Pipe()
      process = context.Process(target=_work, args=(theirs,), daemon=True)
      with _interrupts_held_back():
        process.start()
        processes.append(process)
      theirs.close()
      connections.append(ours)
    for worker in connections:  # now that all of them are starting: it waits for its reader
      worker.send(function)
    yield connections
  finally:
    for process in processes:
      process.terminate()  # what it still works on, nobody wants
      process.join()


def _collect(idle: list[connection.Connection], busy: dict[connection.Connection, int],
             done: dict[int, Any]) -> None:
  """Waits for one worker or more, which then are idle."""
  for worker in connection.wait(list(busy)):
    result = worker.recv()
    if isinstance(result, Exception):
      raise result
    done[busy.pop(worker)] = result
    idle.append(worker)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
  """A process that is started in here never sees Ctrl-C, which a terminal sends to all.

  Its parent ends it: there a Ctrl-C of the meantime arrives afterwards.
  """
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(main_process: connection.Connection) -> None:
  """A worker process: items in, results or exceptions out, until the other end is closed."""
  with contextlib.suppress(EOFError, ConnectionError):
    function = main_process.recv()
    while True:
      item = main_process.recv()
      try:
        result = function(item)
      except Exception as error:  # whatever it is, the main process raises it
        result = error
      main_process.send(result)
