"""Text of other processes in logs: one line, no control characters, not too much of it."""

import logging

import pytest

from common.distributed import notes


@pytest.mark.parametrize(
  'text, shown',
  [
    ('machine/7', 'machine/7'),
    ('größer ≥ 3', 'größer ≥ 3'),
    ('a\nerror: forged', r'a\nerror: forged'),
    ('a\r\x00b', r'a\r\x00b'),
    ('\x1b[2J\x1b[31mred', r'\x1b[2J\x1b[31mred'),
    ('\x9b31m', r'\x9b31m'),  # The same in one character.
    ('abc\u202edef', r'abc\u202edef'),  # Reorders what follows.
    ('a\u2028b', r'a\u2028b'),  # Ends a line, to some.
    ('half \ud800', r'half \ud800'),
    (ValueError('x\ny'), r'x\ny'),
    ('', ''),
  ],
)
def test_what_others_send_is_one_harmless_line(text, shown):
  assert notes.printable(text) == shown


@pytest.mark.parametrize('text', ['x' * 10**6, '\n' * 200, 'x' * 199 + '\n'])
def test_long_texts_are_cut(text):
  shown = notes.printable(text)
  assert len(shown) == 200 and shown.endswith('...')
  assert len(notes.printable(text, 50)) == 50
  assert notes.printable('x' * 200) == 'x' * 200


def test_a_flood_of_warnings_is_a_few_lines_and_a_count(caplog):
  now = [0.0]
  limited = notes.Limited('strangers', lambda: now[0])
  for i in range(1000):
    limited.warn(f'stranger {i} 100%')
  limited.look_after()
  assert caplog.messages == [f'stranger {i} 100%' for i in range(5)]

  caplog.clear()
  now[0] = 59.0
  limited.warn('late')
  limited.look_after()
  assert caplog.messages == []
  now[0] = 60.0
  limited.look_after()
  limited.look_after()
  assert caplog.messages == ['996 more strangers were not shown.']
  assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_after_a_quiet_minute_warnings_are_shown_again(caplog):
  now = [0.0]
  limited = notes.Limited('strangers', lambda: now[0])
  for minute in range(3):
    now[0] = 60.0 * minute
    limited.warn(f'minute {minute}')
  assert caplog.messages == ['minute 0', 'minute 1', 'minute 2']
