"""What every fuzz target needs: damaged files, and the rule that a reader keeps to."""

from collections.abc import Callable
import pathlib
from typing import Any

from hypothesis import strategies as st

from support.errors import UserError

_LONGEST_MESSAGE = 300
# Bytes that end, nest, quote, escape or break something in some format that is read here.
_HOSTILE = (
    b"", b"\x00", b"\n", b"\r", b"\t", b'"', b"'", b",", b";", b"\\", b"{", b"}", b"[", b"]",
    b"\xff", b"\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"null", b"NaN", b"-1",
    b"1e400", b"9" * 400, b"[" * 2000, b'{"a":' * 2000, b"\x1f\x8b", b"\xff" * 8)


def damaged(*valid: bytes) -> st.SearchStrategy[bytes]:
  """Returns valid contents with up to six mutations: cut, overwritten, doubled, hostile bytes."""

  @st.composite
  def contents(draw: st.DrawFn) -> bytes:
    content = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(0, 6))):
      start = draw(st.integers(0, len(content)))
      end = min(start + draw(st.integers(0, 12)), len(content))
      new = draw(st.one_of(st.sampled_from(_HOSTILE), st.binary(max_size=8),
                           st.just(content[start:] + content[start:end])))
      content = content[:start] + new + content[end:]
    return content[:draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]

  return contents()


def read(reader: Callable[[pathlib.Path], Any], path: pathlib.Path) -> Any:
  """Returns what a reader makes of a file; None for a UserError, which must be one short line.

  Any other exception is a finding.
  """
  try:
    return reader(path)
  except UserError as error:
    message = str(error)
    assert message.isprintable(), message
    assert 0 < len(message) <= _LONGEST_MESSAGE, message
    return None
