"""How other processes ended, in words, and how this one ends although threads of it hang."""

import os
import signal
import sys
import threading
import weakref
from typing import NoReturn

# What mostly sends these signals, and where to look.
_LIKELY = {
  signal.SIGABRT: 'native code gave up; what it wrote last may say why',
  signal.SIGBUS: '/dev/shm may be too small, or the disk full (df -h /dev/shm)',
  signal.SIGFPE: 'native code divided by zero',
  signal.SIGILL: 'a library was built for another kind of processor',
  signal.SIGKILL: 'most likely the machine is out of memory (dmesg)',
  signal.SIGSEGV: 'a fault in native code, of an engine or a library',
  signal.SIGXCPU: 'its processor time is limited (ulimit -t)',
}

_may_hang: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def describe(status: int) -> str:
  """Says how a process ended; completes a sentence that begins with the process.

  Args:
    status: A `returncode` of `subprocess.Popen`: an exit status, or minus a signal's number.
  """
  if status >= 0:
    return f'has ended with status {status}'
  try:
    number = signal.Signals(-status)
  except ValueError:  # A real-time signal, which has no name.
    return f'was killed by signal {-status}'
  likely = f': {_LIKELY[number]}' if number in _LIKELY else ''
  return f'was killed by {number.name} ({-status}){likely}'


def may_hang(thread: threading.Thread) -> None:
  """Notes a daemon thread that foreign code may keep from ending before the process does."""
  _may_hang.add(thread)


def does_any_hang() -> bool:
  """Whether a thread of `may_hang` still runs."""
  return any(thread.is_alive() for thread in _may_hang)


def leave(status: int) -> NoReturn:
  """Ends this process, at once if a thread still hangs in foreign code.

  Python's own way of ending would pull away what such a thread works on. One that is making Atari
  games was seen to abort the process from C++ then, or to keep it from ending.
  """
  if not does_any_hang():
    sys.exit(status)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)
