"""Roles and addresses of a run's processes: from flags, or from the cluster that started them."""

import dataclasses
import ipaddress
import os
import pathlib
import socket
from typing import Any, NamedTuple

from absl import flags

from common import errors
from common.distributed import credentials, resolvers

ROLES = ('all', 'learner', 'actor', 'evaluator')
TOKEN_VARIABLE = 'DISTRIBUTED_RL_TOKEN'
_PORT = 8476
_PEER_OFFSET = 1000
_UNIX = 'unix:'


class Endpoint(NamedTuple):
  """Where a learner listens."""

  host: str
  port: int

  @property
  def address(self) -> str:
    """HOST:PORT, or [HOST]:PORT for IPv6."""
    return f'[{self.host}]:{self.port}' if ':' in self.host else f'{self.host}:{self.port}'


class UnixSocket(NamedTuple):
  """Where a learner listens for processes of this machine and user."""

  path: str

  @property
  def address(self) -> str:
    """unix:PATH, as TensorFlow takes it too."""
    return f'{_UNIX}{self.path}'


Address = Endpoint | UnixSocket


@dataclasses.dataclass(frozen=True)
class Cluster:
  """This process's role and its peers' addresses.

  Attributes:
    role: `learner`, `actor`, `evaluator`, or `all` for learner and actors in one process.
    listen: HOST:PORT where a learner accepts processes of other machines; empty if it accepts none.
    learner: HOST:PORT or unix:PATH of the learner that an actor or evaluator works for.
    actor_processes: Number of actors that this process starts as child processes.
    name: Identifies an actor, so that it gets its place back when it rejoins.
    token: The run's shared secret. If it is empty, a learner makes its own, and an actor can reach
      its learner by a Unix socket only.
    patience_seconds: How long an actor waits for a learner that does not answer.
    learners: Addresses of all learners if there are several, else empty.
    index: This learner's position among them.
    trusted_network: Whether the user trusts everybody who can reach this learner's peers' ports.
  """

  role: str = 'all'
  listen: str = ''
  learner: str = ''
  actor_processes: int = 0
  name: str = ''
  token: str = ''
  patience_seconds: float = 600.0
  learners: tuple[str, ...] = ()
  index: int = 0
  trusted_network: bool = False

  @property
  def peers(self) -> tuple[str, ...]:
    """Addresses where learners reach each other: 1000 ports above those for actors."""
    endpoints = [parse_address(address, '--cluster') for address in self.learners]
    return tuple(Endpoint(host, port + _PEER_OFFSET).address for host, port in endpoints)

  @property
  def has_threads(self) -> bool:
    """Whether this process's actors are threads."""
    return self.role == 'all' and not self.actor_processes

  @property
  def is_host(self) -> bool:
    """Whether this process is a learner that other processes act for."""
    return bool(self.listen) or (self.role == 'all' and self.actor_processes > 0)


def define_flags(values: flags.FlagValues) -> None:
  """Defines the flags that `resolve` reads."""
  _define_role_flags(values)
  _define_identity_flags(values)
  _define_cluster_flags(values)


def _define_role_flags(values: flags.FlagValues) -> None:
  flags.DEFINE_enum(
    'role',
    None,
    ROLES,
    'Role of this process in a run of several: learner, actor or evaluator. '
    'Default: all, which is learner and actors in one process.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'listen',
    None,
    'HOST:PORT where the learner accepts actors. Default of --role=learner: '
    f'127.0.0.1:{_PORT}, for actors on this machine. 0.0.0.0:PORT accepts all machines and '
    'needs a token. Actors of --actor_processes need no address.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'learner',
    None,
    'HOST:PORT of the learner that this actor or evaluator works for, or unix:PATH for one of this '
    'machine and user.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'actor_processes',
    0,
    'Number of actors to start as processes on this machine, and to restart when they fail.',
    lower_bound=0,
    flag_values=values,
  )


def _define_identity_flags(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    'token_file',
    None,
    "File with the run's shared secret, from `openssl rand -hex 16`. Alternative: the environment "
    f"variable {TOKEN_VARIABLE}. A learner without one writes its own to the run's folder.",
    flag_values=values,
  )
  flags.DEFINE_string(
    'name',
    None,
    'Name of this actor; a later actor of the same name takes its place. Default: HOST/PROCESS.',
    flag_values=values,
  )
  flags.DEFINE_float(
    'patience_seconds',
    600.0,
    'How long an actor waits for a learner that does not answer.',
    lower_bound=0.0,
    flag_values=values,
  )


def _define_cluster_flags(values: flags.FlagValues) -> None:
  flags.DEFINE_enum(
    'cluster',
    None,
    resolvers.KINDS,
    'Read role and addresses from TF_CONFIG, Slurm or Kubernetes.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'learners',
    1,
    'With --cluster=slurm: the number of learners. The first tasks are learners, the others '
    'actors.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_boolean(
    'trusted_network',
    False,
    'With several learners: you trust everybody who can reach the ports where learners reach each '
    "other, TensorFlow's, which run any graph for whoever connects. See docs/distributed.md.",
    flag_values=values,
  )


def resolve(values: flags.FlagValues) -> Cluster:
  """Determines what this process is. Imports TensorFlow if --cluster is given.

  Raises:
    UserError: If the flags contradict each other, or the cluster cannot be read.
  """
  found = _from_cluster(values) if values.cluster else {}
  role = values.role or found.get('role', 'all')
  learner = values.learner or found.get('learner', '')
  listen = values.listen or found.get('listen', '')

  _check_combination(values, role, learner)
  if role == 'learner':
    listen = listen or f'127.0.0.1:{_PORT}'

  token = _token(values.token_file)
  if listen:
    endpoint = parse_address(listen, '--listen')
    if role in ('all', 'learner') and not token and not is_loopback(endpoint.host):
      raise errors.UserError(
        f'listening on {listen}, beyond this machine, needs a token that keeps strangers out. '
        'Write one to a file, `(umask 077; openssl rand -hex 16 > PATH)`, and give it to all '
        f'processes: --token_file=PATH (or {TOKEN_VARIABLE}=SECRET)'
      )
  if learner:
    _check_learner(learner, token)
  return Cluster(
    role=role,
    listen=listen,
    learner=learner,
    actor_processes=values.actor_processes,
    name=values.name or found.get('name') or f'{socket.gethostname()}/{os.getpid()}',
    token=token,
    patience_seconds=values.patience_seconds,
    learners=found.get('learners', ()),
    index=found.get('index', 0),
    trusted_network=values.trusted_network,
  )


def _check_learner(learner: str, token: str) -> None:
  """Raises UserError if a process that works for this learner could not reach it."""
  address = parse_learner(learner)
  if isinstance(address, UnixSocket):
    return
  if not address.port:
    raise errors.UserError(
      f'--learner is {learner!r}, expected a port other than 0: the one that the learner shows'
    )
  if not token:
    raise errors.UserError(
      f'the learner at {learner} needs its token: --token_file=PATH (or {TOKEN_VARIABLE}=SECRET). '
      "A learner that was given none writes its own to the file token in the run's folder, and "
      'shows the path when it starts'
    )


def _check_combination(values: flags.FlagValues, role: str, learner: str) -> None:
  """Raises UserError if flags do not fit the role."""
  is_learner = role in ('all', 'learner')
  if is_learner and values.learner:
    raise errors.UserError(f'--learner={learner} is for actors and evaluators: add --role=actor')
  if not is_learner and not learner:
    raise errors.UserError(
      f'--role={role} needs the address of its learner: --learner=HOST:PORT, which the learner '
      'shows when it starts'
    )
  if not is_learner and values.listen:
    raise errors.UserError(f'--listen={values.listen} is for learners, and this is --role={role}')
  if role == 'evaluator' and values.actor_processes:
    raise errors.UserError(
      '--actor_processes is for learners and actors, and this is --role=evaluator'
    )


def places(who: Cluster, num_actors: int) -> int:
  """The run's number of actors: `actor_processes` if it has no others, else `num_actors`."""
  return who.actor_processes if who.role == 'all' and who.actor_processes else num_actors


def assignments(who: Cluster, num_actors: int) -> range:
  """The numbers of the run's actors that work for this learner.

  Raises:
    UserError: If the learners cannot share the actors equally.
  """
  count = max(1, len(who.learners))
  if num_actors % count:
    raise errors.UserError(
      f'num_actors is {num_actors}, expected a multiple of {count}: the number of learners that '
      'share them'
    )
  return range(who.index, num_actors, count)


def parse_address(address: str, flag: str) -> Endpoint:
  """Parses HOST:PORT. Raises UserError, naming the flag."""
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal() or int(port) > 65535:
    raise errors.UserError(
      f'{flag} is {address!r}, expected HOST:PORT, for example 127.0.0.1:{_PORT}'
    )
  return Endpoint(host.strip('[]'), int(port))


def parse_learner(address: str) -> Address:
  """Parses the HOST:PORT or unix:PATH of --learner. Raises UserError."""
  if address.startswith(_UNIX + '/'):
    return UnixSocket(address.removeprefix(_UNIX))
  return parse_address(address, '--learner')


def is_loopback(host: str) -> bool:
  """Whether a host is certainly this machine."""
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:  # A name: any but this one may resolve to another machine.
    return host == 'localhost'


def _token(path: str | None) -> str:
  """The token that was given, or an empty text. Raises UserError if it cannot be used."""
  if path:
    return credentials.read_token(pathlib.Path(path).expanduser(), f'--token_file={path}')
  token = os.environ.get(TOKEN_VARIABLE, '')
  if token:
    credentials.check_token(token, TOKEN_VARIABLE)
  return token


def _from_cluster(values: flags.FlagValues) -> dict[str, Any]:
  """Reads this task's role and addresses, as keyword arguments of `Cluster`."""
  kind = values.cluster
  try:
    task = resolvers.task(kind, values.role, values.learners, _PORT)
    if task.role in ROLES and (type(task.index) is not int or task.index < 0):
      raise ValueError(f"the task's index is {task.index!r}")
    is_learner = task.role in ('all', 'learner')
    # Actors are dealt out to the learners in turn.
    number = task.index if is_learner else task.index % len(task.learners)
    address = task.learners[number]
  except (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
  ) as error:
    raise errors.UserError(
      f'--cluster={kind}: the cluster cannot be read: {type(error).__name__}: {error}. '
      f'Expected {resolvers.EXPECTED[kind]}'
    ) from error

  if task.role not in ROLES:
    hint = '; give it with --role' if kind == 'kubernetes' else ''
    raise errors.UserError(
      f'--cluster={kind}: this task is {task.role!r}, expected one of {", ".join(ROLES)}{hint}'
    )
  if not is_learner:
    return {'role': task.role, 'learner': address, 'name': f'{task.role}-{task.index}'}
  return {
    'role': task.role,
    'listen': address,
    'index': task.index,
    'learners': task.learners if len(task.learners) > 1 else (),
  }
