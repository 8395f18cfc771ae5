"""Messages: one line, short, printable, whatever the input holds."""

import pytest

from support.errors import shown, UserError


@pytest.mark.parametrize("message, right", [
    ("a\nb\tc", "a b c"),
    ("a \x1b[31mred\x00", r"a \x1b[31mred\x00"),
    ("lone \ud800", r"lone \ud800"),
    ("  é 中 ", "é 中"),
])
def test_a_message_is_one_printable_line(message, right):
  assert str(UserError(message)) == right


def test_a_long_message_keeps_its_beginning_and_its_end():
  message = str(UserError("file.csv:3: " + "x" * 1000 + "; write something else"))
  assert len(message) <= 300
  assert message.startswith("file.csv:3: x") and message.endswith("x; write something else")


@pytest.mark.parametrize("value, right", [
    ("a'b", '"a\'b"'), (3.5, "3.5"), (["a", 1], "['a', 1]"), (10**400, "an integer of 1329 bits"),
    ("\ud800", r"'\ud800'"), (None, "None"),
])
def test_a_shown_value_is_its_repr(value, right):
  assert shown(value) == right


@pytest.mark.parametrize("value", ["x" * 10**6, b"x" * 10**6, [["x" * 90] * 90] * 90,
                                   {str(i): "x" * 90 for i in range(90)}])
def test_a_shown_value_is_short(value):
  assert len(shown(value)) <= 100
