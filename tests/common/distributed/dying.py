"""A program in place of an actor: says something, and is killed by a signal."""

import os
import signal

if __name__ == '__main__':
  print('all is well', flush=True)
  os.kill(os.getpid(), signal.SIGBUS)
