"""Which of TensorFlow's CPU kernels this process runs."""

import tensorflow as tf

# Not in TensorFlow's public interface, which has nothing that tells.
from tensorflow.python.util import _pywrap_util_port


def describe() -> str:
  """TensorFlow's version and kernels, for the log."""
  kind = 'oneDNN' if _pywrap_util_port.IsMklEnabled() else 'Eigen'
  return f'TensorFlow {tf.__version__}, {kind} kernels.'
