"""Who hangs is named once, by what it is doing, and once more when it goes on."""

import logging

import pytest

from common.runs import silence


@pytest.fixture
def register(caplog):
  caplog.set_level(logging.INFO)
  return silence.Register(60.0)


def silences(**seconds):
  return [
    silence.Silence(name, each, lambda name=name: f'{name}: stepping')
    for name, each in seconds.items()
  ]


def test_those_who_go_on_are_not_named(register, caplog):
  for seconds in (0.0, 59.0, 1.0):
    register.look(silences(first=seconds, second=0.0))
  assert caplog.messages == []


def test_who_hangs_is_named_once_and_again_when_it_goes_on(register, caplog):
  for seconds in (59.0, 61.0, 62.0, 300.0):
    register.look(silences(first=seconds, second=0.0))
  assert caplog.messages == ['Silent for more than 60 s: first: stepping']
  assert caplog.records[0].levelno == logging.WARNING
  for _ in range(2):
    register.look(silences(first=0.5, second=0.0))
  assert caplog.messages[1:] == ['first goes on, after 61 s.']


def test_each_hang_is_named(register, caplog):
  for seconds in (61.0, 0.0, 61.0):
    register.look(silences(first=seconds))
  assert [message.split()[0] for message in caplog.messages] == ['Silent', 'first', 'Silent']


def test_those_who_fall_silent_together_share_a_line(register, caplog):
  register.look(silences(first=61.0, second=62.0, third=0.0))
  register.look(silences(first=62.0, second=63.0, third=61.0))
  assert caplog.messages == [
    'Silent for more than 60 s: first: stepping; second: stepping',
    'Silent for more than 60 s: third: stepping',
  ]


def test_who_leaves_does_not_go_on(register, caplog):
  register.look(silences(first=61.0, second=0.0))
  register.look(silences(second=0.0))
  assert len(caplog.messages) == 1
