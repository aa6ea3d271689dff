"""The run's token, and the TLS key and certificate that both ends derive from it.

Whoever has the token has the key: the learner and its actors present the same certificate and
accept no other. Nothing has to be issued, copied or renewed besides the token.
"""

import datetime
import functools
import hashlib
import logging
import os
import pathlib
import secrets
import string
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from common import errors

_MIN_BITS = 128
_MIN_DISTINCT = 8  # Characters; fewer look like a placeholder. 32 random hex digits have 14.
_COMMAND = 'openssl rand -hex 16'
_BEGIN = datetime.datetime(1970, 1, 1)
_END = datetime.datetime(9999, 12, 31)


def check_token(token: str, source: str) -> None:
  """Refuses tokens that can be guessed.

  The learner shows its certificate to anyone who connects, before it asks for theirs. Tokens can
  thus be tried offline, and only their length protects them.

  Args:
    token: The token.
    source: Where it came from, for the message.

  Raises:
    UserError: If it has fewer than 128 bits.
  """
  is_hex = set(token) <= set(string.hexdigits)
  bits = len(token) * (4 if is_hex else 6)
  if bits < _MIN_BITS or len(set(token)) < _MIN_DISTINCT:
    raise errors.UserError(
      f'the token in {source} is too easy to guess: {len(token)} characters, expected at least '
      f'{_MIN_BITS} random bits, which are 32 hexadecimal digits or 22 letters and digits. Make '
      f'one with: {_COMMAND}'
    )


def read_token(path: pathlib.Path, source: str) -> str:
  """Reads a token from a file; warns if other users may read it too.

  Args:
    path: The file.
    source: How the user named it, for messages.

  Raises:
    UserError: If the file cannot be read, is empty, or holds a weak token.
  """
  try:
    token = path.read_text().strip()
    mode = path.stat().st_mode
  except (OSError, ValueError) as error:
    raise errors.UserError(f'{source} cannot be read: {error}') from error
  if not token:
    raise errors.UserError(f'{source} is empty: expected a secret. Make one with: {_COMMAND}')
  check_token(token, source)
  if mode & 0o077:
    logging.warning(
      '%s may be read by other users of this machine, who can then join the run: chmod 600 %s',
      source,
      path,
    )
  return token


def own_token(path: pathlib.Path) -> str:
  """The token in a file that only this user may read, made if there is none yet.

  A run that is resumed thus keeps its token, and actors that wait for it can rejoin.

  Raises:
    UserError: If there is a file that cannot be used.
  """
  if path.exists():
    return read_token(path, str(path))
  token = secrets.token_hex(16)
  # Renamed when complete: an actor may be waiting for the file. `mkstemp` makes it mode 0600.
  descriptor, name = tempfile.mkstemp(dir=path.parent)
  with open(descriptor, 'w') as file:
    file.write(f'{token}\n')
  os.rename(name, path)
  return token


@functools.cache
def pem(token: str) -> str:
  """The private key and the certificate that belong to a token, in PEM format.

  Equal tokens give equal bytes: Ed25519 signs deterministically, and dates and serial number are
  fixed.
  """
  # With 128 random bits the cost of scrypt matters little; it is for those who choose tokens badly.
  # Any text is a token: an environment variable may hold bytes that are no UTF-8.
  secret = token.encode(errors='surrogatepass')
  seed = hashlib.scrypt(secret, salt=b'impala-apex gate', n=2**14, r=8, p=1, dklen=32)
  key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)

  name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'impala-apex run')])
  builder = x509.CertificateBuilder(
    issuer_name=name,
    subject_name=name,
    public_key=key.public_key(),
    serial_number=1,
    not_valid_before=_BEGIN,
    not_valid_after=_END,
  )
  # No authority: it vouches for itself and for no other certificate.
  constraints = x509.BasicConstraints(ca=False, path_length=None)
  certificate = builder.add_extension(constraints, critical=True).sign(key, None)
  private = key.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
  )
  return (private + certificate.public_bytes(serialization.Encoding.PEM)).decode()
