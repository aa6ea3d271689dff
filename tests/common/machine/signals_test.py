"""The first Ctrl-C ends a run in order, a later one at once."""

import os
import signal
import threading
import time

import pytest

from common.machine import signals


def send(number):
  os.kill(os.getpid(), number)
  time.sleep(0.01)  # Python runs handlers between two instructions of the main thread.


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@pytest.mark.parametrize('number', ENDING)
def test_the_first_signal_sets_the_event(number):
  event = threading.Event()
  with signals.setting(event):
    send(number)
    assert event.is_set()


def test_one_ctrl_c_that_arrives_twice_does_not_interrupt():
  event = threading.Event()
  with signals.setting(event):
    send(signal.SIGINT)
    send(signal.SIGINT)
  assert event.is_set()


def test_a_second_ctrl_c_interrupts():
  event = threading.Event()
  with pytest.raises(KeyboardInterrupt):
    with signals.setting(event):
      send(signal.SIGINT)
      time.sleep(1.05)
      send(signal.SIGINT)


def test_a_hangup_that_is_ignored_stays_ignored():
  """As nohup starts a program: the terminal that closes must not end the run."""
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    event = threading.Event()
    with signals.setting(event):
      send(signal.SIGHUP)
      assert not event.is_set()
  finally:
    signal.signal(signal.SIGHUP, before)


def test_handlers_are_restored():
  before = [signal.getsignal(number) for number in ENDING]
  with signals.setting(threading.Event()):
    within = [signal.getsignal(number) for number in ENDING]
    assert all(now != then for now, then in zip(within, before, strict=True))
  assert [signal.getsignal(number) for number in ENDING] == before
