"""Maps a function over a stream of items in several processes, in order and bounded memory."""

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

  Reads one item ahead of the workers; at most two items per worker are in flight, results that
  wait for their turn included. Closing the generator ends the workers.

  Not joblib, whose generator reads on when no result is taken; not an executor of
  concurrent.futures, which hangs when a worker dies while it sends a result.

  Args:
    function: must be picklable; each worker receives it once.
    items: must be picklable.
    num_workers: processes, from 1; with 1 this process does the work.
    remedy: advice for the message about a worker that died, probably for lack of memory.

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
  """Starts worker processes; yields a connection to each."""
  context = multiprocessing.get_context("spawn")
  processes, connections = [], []
  resource_tracker.ensure_running()  # else process.start() starts it and unblocks interrupts
  try:
    for _ in range(num_workers):
      ours, theirs = context.Pipe()
      process = context.Process(target=_work, args=(theirs,), daemon=True)
      with _interrupts_held_back():
        process.start()
        processes.append(process)
      theirs.close()
      connections.append(ours)
    for worker in connections:  # after all have been started: sending waits for the receiver
      worker.send(function)
    yield connections
  finally:
    for process in processes:
      process.terminate()  # nobody wants the result that it may be working on
      process.join()


def _collect(idle: list[connection.Connection], busy: dict[connection.Connection, int],
             done: dict[int, Any]) -> None:
  """Waits for at least one worker's result; moves its worker from `busy` to `idle`."""
  for worker in connection.wait(list(busy)):
    try:
      result = worker.recv()
    except OSError as error:  # it died while it was sending
      raise EOFError from error
    if isinstance(result, Exception):
      raise result
    done[busy.pop(worker)] = result
    idle.append(worker)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
  """Blocks Ctrl-C, which a terminal sends to all processes, in those that are started inside.

  The parent receives it after this and ends them.
  """
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(main_process: connection.Connection) -> None:
  """Runs in a worker: receives items, sends results or exceptions, until the pipe is closed."""
  with contextlib.suppress(EOFError, ConnectionError):
    function = main_process.recv()
    while True:
      item = main_process.recv()
      try:
        result = function(item)
      except Exception as error:  # the main process raises it, whatever it is
        result = error
      main_process.send(result)
