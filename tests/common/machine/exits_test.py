"""Ends of processes are named, and a thread that hangs in native code does not spoil this one's."""

import pathlib
import signal
import subprocess
import sys

import pytest

from common.machine import exits

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.parametrize(
  'status, words',
  [
    (0, 'has ended with status 0'),
    (3, 'has ended with status 3'),
    (-7, 'was killed by SIGBUS (7): /dev/shm may be too small'),
    (-9, 'was killed by SIGKILL (9): most likely the machine is out of memory (dmesg)'),
    (-11, 'was killed by SIGSEGV (11): a fault in native code'),
    (-6, 'was killed by SIGABRT (6): native code gave up'),
    (-15, 'was killed by SIGTERM (15)'),
    (-40, 'was killed by signal 40'),
  ],
)
def test_an_end_is_described(status, words):
  assert exits.describe(status).startswith(words)


def test_what_a_real_process_returns_is_understood():
  code = 'import os, signal; os.kill(os.getpid(), signal.SIGBUS)'
  ended = subprocess.run([sys.executable, '-c', code], check=False)
  assert ended.returncode == -signal.SIGBUS
  assert 'SIGBUS (7): /dev/shm may be too small' in exits.describe(ended.returncode)


@pytest.mark.parametrize(
  'end, status, words',
  [('return 130', 130, ''), ('raise KeyError("oops")', 1, "KeyError: 'oops'")],
)
def test_a_program_ends_in_order_although_a_thread_still_makes_games(end, status, words):
  """Ended in Python's way, this one is told by nanobind what it leaked, or does not end at all."""
  code = f"""
import threading, time
import ale_py
from common.config import command_line
from common.machine import exits

ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
made = threading.Event()
games = []  # Kept: the engine now and then hangs when it is destroyed at once.

def make_games():
  while True:
    games.append(ale_py.AtariVectorEnv('pong', 1, num_threads=1))
    made.set()

def main(argv):
  thread = threading.Thread(target=make_games, daemon=True)
  exits.may_hang(thread)
  thread.start()
  made.wait()
  print('ends')
  {end}

command_line.run(main)
"""
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
  )
  assert (done.returncode, done.stdout) == (status, 'ends\n')
  assert words in done.stderr and 'leak' not in done.stderr and 'terminate' not in done.stderr


def test_a_program_without_such_threads_still_runs_what_is_registered_for_its_end():
  code = """
import atexit
from common.config import command_line
atexit.register(lambda: print('tidied'))
command_line.run(lambda argv: 3)
"""
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
  )
  assert (done.returncode, done.stdout) == (3, 'tidied\n')
