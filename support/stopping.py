"""What ends a run: Ctrl-C, SIGTERM (a cluster takes the machine), SIGHUP (hang-up), max_hours.

Python raises KeyboardInterrupt wherever its main thread happens to be. In a callback of a compiled
library, such as JAX's at each garbage collection, that is lost ("Exception ignored in ...") or
ends the process with a crash. So the handler raises nothing while steps are made: it takes a
note, and the loop asks for it between two steps. A second signal ends the process at once.
"""

from collections.abc import Callable, Iterator
import contextlib
import enum
import math
import os
import signal
import time
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
  """Raised where a run stops for a signal or because its time is over."""


class _Mode(enum.Enum):
  """The answer to a first signal."""

  END = enum.auto()  # ends the process
  RAISE = enum.auto()
  NOTE = enum.auto()


_mode = _Mode.END
_received = 0  # the first signal's number
_for_all = False  # several hosts stop at one step, which `learn` says
_learned = 0  # a signal's number or _OVER
_OVER = 99  # stands for the signal where the time is over
_began = time.monotonic()
_deadline = math.inf
_advice: Callable[[], str] = str


def catch_signals() -> None:
  """Ends the process with one line at a signal, from now until `raise_stopped`.

  A signal that this process was started to ignore, as by nohup, stays ignored.
  """
  for number in _SIGNALS:
    if signal.getsignal(number) is not signal.SIG_IGN:
      signal.signal(number, _answer)


def raise_stopped() -> None:
  """Makes a first signal raise Stopped from now on."""
  global _mode
  _mode = _Mode.RAISE


@contextlib.contextmanager
def noted() -> Iterator[None]:
  """A context in which a first signal only makes `check` raise Stopped, and its end."""
  global _mode
  before, _mode = _mode, _Mode.NOTE
  try:
    check()
    yield
  finally:
    _mode = before
  check()


def end_after(seconds: float) -> None:
  """Makes `check` raise Stopped from `seconds` after the start of the process on; 0: never."""
  global _deadline
  _deadline = _began + seconds if seconds else math.inf


def leave_to_all() -> None:
  """Makes `check` obey only `learn`: with several hosts, all must stop after the same step."""
  global _for_all
  _for_all = True


def asked() -> int:
  """Returns 0, or a number for what asks this host to stop, for `learn` on all hosts."""
  return _received or (_OVER if time.monotonic() >= _deadline else 0)


def learn(number: int) -> None:
  """Takes the largest number that `asked` returned on any host."""
  global _learned
  _learned = _learned or number


def learned() -> bool:
  """Returns whether all hosts stop together."""
  return _learned > 0


def check() -> None:
  """Raises Stopped if a signal came or the time is over."""
  if _learned if _for_all else asked():
    raise Stopped


def advise(function: Callable[[], str]) -> None:
  """Sets the function that says, once the process is stopped, what is saved and how to go on."""
  global _advice
  _advice = function


def advice() -> str:
  """Returns what is saved, and how to go on."""
  return _advice()


def last_line() -> str:
  """Returns why the process is stopped, and the advice."""
  return f"{_reason()}; {advice()}"


def _reason() -> str:
  number = _received or _learned or asked()
  if number == _OVER:
    return "max_hours are over"
  if number in (0, signal.SIGINT):
    return "interrupted"
  return f"stopped by {signal.Signals(number).name}"


def exit_status() -> int:
  """Returns 128 + the signal's number, as shells have it: 130 after Ctrl-C, 143 after SIGTERM.

  The end of the time is like SIGTERM, which a queue sends a little later.
  """
  number = _received or _learned or asked() or signal.SIGINT
  return 128 + (signal.SIGTERM if number == _OVER else number)


def _answer(number: int, frame: FrameType | None) -> None:
  """Handles a signal; in the main thread, between two instructions of Python."""
  del frame
  global _received
  first, _received = not _received, _received or number
  if not first or _mode is _Mode.END:
    _end("ended at once" if not first else "interrupted before it began")
  if _mode is _Mode.RAISE and not _learned:  # or a save for another host's signal would break off
    raise Stopped
  _write(f"{signal.Signals(number).name}: stopping after the steps under way; once more ends it at "
         "once")


def _end(line: str) -> None:
  """Ends the process without Python's own end, which waits for threads and unloads libraries."""
  _write(line)
  os._exit(exit_status())


def _write(line: str) -> None:
  os.write(2, f"{line}\n".encode())  # print is not safe here: the signal may interrupt a print
