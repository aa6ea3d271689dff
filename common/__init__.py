import importlib.util
import sys

# In words that any Python 3 understands, and before other modules use what older ones lack.
_SUPPORTED = ((3, 11), (3, 12), (3, 13))

if sys.version_info[:2] not in _SUPPORTED:
  versions = ', '.join('%d.%d' % version for version in _SUPPORTED)
  found = '%d.%d' % sys.version_info[:2]
  print('error: this is Python %s, expected one of %s' % (found, versions), file=sys.stderr)
  sys.exit(2)
if importlib.util.find_spec('absl') is None:
  print(
    'error: %s has no packages of requirements.txt: use .venv/bin/python, which scripts/train makes'
    % sys.executable,
    file=sys.stderr,
  )
  sys.exit(2)
