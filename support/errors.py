"""Errors that are the user's to mend: one line on stderr, exit status 1, no traceback."""

from collections.abc import Callable
import re
import sys
from typing import NoReturn

from absl import app, flags

QUOTES = "'\""


class UserError(Exception):
  """Bad input, named in one line with what would be right."""


def first_line(error: BaseException) -> str:
  """The first line of another library's message, or the error's type where it says nothing."""
  return next(iter(str(error).strip().splitlines()), type(error).__name__)


def run_script(main: Callable[[], None], interrupted: str = "the same command continues from the "
               "last checkpoint, if there is one") -> NoReturn:
  """Parses the flags and runs a script; a UserError ends it with its one line.

  Args:
    main: the script.
    interrupted: what to tell a user who has interrupted it.
  """

  def checked_main(argv: list[str]) -> None:
    try:
      if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags start with --")
      main()
    except UserError as error:
      _fail(str(error))
    except OSError as error:  # a folder that cannot be made, a file that may not be read
      if error.filename is None:
        raise
      _fail(f"{error.filename}: {error.strerror}")
    except RuntimeError as error:  # XLA's, of whatever type
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      _fail(f"the device has not enough memory ({first_line(error)}); a smaller batch, "
            "--config.gradient_accumulation_steps or a shorter length needs less")
    except KeyboardInterrupt:
      print(f"interrupted; {interrupted}", file=sys.stderr)
      sys.exit(130)

  app.run(checked_main, flags_parser=_parse_flags)
  raise AssertionError("app.run does not return")


def _parse_flags(argv: list[str]) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
    if "config" in flags.FLAGS:
      flags.FLAGS["config"].value.keys()  # raises where the file could not be loaded
    return rest
  except (AttributeError, KeyError) as error:  # ml_collections: an override of an unknown key
    text = str(error).replace("\\", "")
    near = re.search(r'Did you mean "(.*)" instead of "(.*)"', text)
    _fail(f"unknown config key {near[2]!r}; did you mean {near[1]!r}?" if near else
          f"unknown config key {text.strip(QUOTES)!r}; all keys are in the config file")
  except OSError as error:
    _fail(f"the config file cannot be loaded: {str(error).strip().splitlines()[-1]}")
  except (flags.Error, TypeError, ValueError) as error:
    lines = [line for line in str(error).splitlines() if line.strip()]
    # A config file's own complaint comes wrapped in its traceback, the message last.
    _fail(re.sub(r"^\s*\w+Error: ", "", lines[-1]) if "Traceback" in str(error)
          else " ".join(lines))


def _fail(message: str) -> NoReturn:
  print(f"error: {' '.join(message.split())}", file=sys.stderr)
  sys.exit(1)
