"""Ctrl-C ends a run in order the first time, and at once if it is meant."""

import os
import signal
import threading
import time

import pytest

from common.machine import signals


def send(number):
  os.kill(os.getpid(), number)
  time.sleep(0.01)  # Python handles it between two instructions of the main thread.


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_event(number):
  event = threading.Event()
  with signals.setting(event):
    send(number)
    assert event.is_set()


def test_the_same_ctrl_c_may_arrive_twice():
  event = threading.Event()
  with signals.setting(event):
    send(signal.SIGINT)
    send(signal.SIGINT)
  assert event.is_set()


def test_a_second_one_interrupts():
  event = threading.Event()
  with pytest.raises(KeyboardInterrupt):
    with signals.setting(event):
      send(signal.SIGINT)
      time.sleep(1.05)
      send(signal.SIGINT)


def test_afterwards_all_is_as_before():
  before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
  with signals.setting(threading.Event()):
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
  assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
