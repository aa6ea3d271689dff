"""The one exception whose text is meant for the user and is shown without a stack trace."""

import difflib
from typing import Iterable

_MANY = 50  # Names that are no longer listed in full.


class UserError(Exception):
  """A mistake that the user can fix: the text names the value, what was expected, and the fix."""


def unknown(kind: str, name: str, known: Iterable[str], hint: str = '') -> UserError:
  """Builds the error for a name that does not exist, which suggests the most similar known names.

  If none is similar, the message lists all that exist, or, of very many, the three nearest.

  Args:
    kind: What the name should have named, such as `preset`.
    name: The name that does not exist.
    known: All names that exist.
    hint: A sentence to append.
  """
  known = sorted(known)
  is_long = len(known) > _MANY
  near = difflib.get_close_matches(name, known, n=3, cutoff=0.0 if is_long else 0.5)
  suggestion = f'Did you mean {" or ".join(near)}?' if near else f'Known: {", ".join(known)}.'
  return UserError(f'unknown {kind} {name!r}. {suggestion} {hint}'.rstrip())
