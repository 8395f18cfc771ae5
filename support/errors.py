"""Errors that the user can mend: one short line, whatever the input holds."""

from collections.abc import Sequence
import reprlib
from typing import Any

_LONGEST = 300  # characters of a message
_LONGEST_VALUE = 100  # characters of a value that a message quotes


class UserError(Exception):
  """Bad input; the message is one line that names it and says what would be right.

  A message beyond 300 characters loses its middle: it begins with the file and ends with the
  advice. Characters that a terminal would obey are escaped.
  """

  def __init__(self, message: str):
    super().__init__(one_line(message))


class MachineError(UserError):
  """Nothing is wrong with the input, but the machine lacks something: every run would end so."""


def one_line(message: str) -> str:
  """Returns a message as one line of at most 300 printable characters."""
  line = "".join(
      character if character.isprintable() else
      " " if character in "\n\t" else character.encode("unicode_escape").decode()
      for character in message.strip())
  half = (_LONGEST - 5) // 2
  return line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}"


def first_line(error: BaseException) -> str:
  """Returns the first line of another library's message, or its type if the message is blank."""
  return next(iter(str(error).strip().splitlines()), type(error).__name__)


def shown(value: Any) -> str:
  """Returns a value as a message quotes it: like repr, in at most 100 characters."""
  if isinstance(value, int) and value.bit_length() > 300:  # repr refuses 4,300 digits and more
    return f"an integer of {value.bit_length()} bits"
  text = _SHORT.repr(value)
  return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE - 4]}...{text[-1]}"


def quoted(names: Sequence[str], most: int = 20) -> str:
  """Returns names as messages list them: 'a', 'b', 'c'."""
  more = f" and {len(names) - most:,} more" if len(names) > most else ""
  return ", ".join(map(shown, names[:most])) + more


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _LONGEST_VALUE
_SHORT.maxlevel = 3
