"""Who is who in a run of many processes: from flags, or from the cluster that started them."""

import dataclasses
import ipaddress
import os
import pathlib
import socket
from typing import Any

from absl import flags

from common import errors

ROLES = ('all', 'learner', 'actor', 'evaluator')
TOKEN_VARIABLE = 'DISTRIBUTED_RL_TOKEN'
_RESOLVERS = ('tf_config', 'slurm', 'kubernetes')
_PORT, _PEERS = 8476, 1000


@dataclasses.dataclass(frozen=True)
class Cluster:
  """This process and those it has to do with.

  Attributes:
    role: all (learner and actors in one), learner, actor or evaluator.
    listen: HOST:PORT of a learner for actors of other processes; empty if there are none.
    learner: HOST:PORT of the learner that an actor or evaluator works for.
    actor_processes: actors that this process starts as processes of its own.
    name: by which an actor gets its place back when it returns.
    token: what all of a run share; may be empty as long as only this machine is concerned.
    patience_seconds: how long an actor waits for a learner that does not answer.
    learners: addresses of all learners, if there are several.
    index: of this learner among them.
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

  @property
  def peers(self) -> tuple[str, ...]:
    """Where learners reach each other: 1000 ports beyond those that are for actors."""
    parsed = [parse_address(address, '--cluster') for address in self.learners]
    return tuple(join_address(host, port + _PEERS) for host, port in parsed)

  @property
  def has_threads(self) -> bool:
    """Whether actors are threads of this process."""
    return self.role == 'all' and not self.actor_processes


def define_flags(values: flags.FlagValues) -> None:
  flags.DEFINE_enum(
    'role',
    None,
    ROLES,
    'What this process is: learner, actor or evaluator of a run of many '
    'processes; all, the default, is learner and actors in one.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'listen',
    None,
    'HOST:PORT at which a learner expects actors: 127.0.0.1, for those of this '
    f'machine, port {_PORT}, unless told otherwise. 0.0.0.0:PORT is for all machines, and needs '
    'a token.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'learner',
    None,
    'HOST:PORT of the learner that an actor or evaluator works for.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'actor_processes',
    0,
    'Start so many actors, each a process on this machine, and look after them.',
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_string(
    'token_file',
    None,
    'File whose text all processes of a run must know; or set the environment '
    f'variable {TOKEN_VARIABLE}.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'cluster',
    None,
    _RESOLVERS,
    'Read role and addresses from TF_CONFIG, Slurm or Kubernetes.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'learners',
    1,
    'With --cluster=slurm: so many of its first tasks are learners, the others actors.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_string(
    'name',
    None,
    'Of an actor: another one of this name takes its place. HOST/PROCESS by default.',
    flag_values=values,
  )
  flags.DEFINE_float(
    'patience_seconds',
    600.0,
    'So long an actor waits for a learner that does not answer.',
    lower_bound=0.0,
    flag_values=values,
  )


def resolve(values: flags.FlagValues) -> Cluster:
  """Who this process is. Imports TensorFlow if --cluster asks for it.

  Raises:
    UserError: if the flags contradict each other, or the cluster cannot be read.
  """
  found = _from_cluster(values) if values.cluster else {}
  role = values.role or found.get('role', 'all')
  learner = values.learner or found.get('learner', '')
  listen = values.listen or found.get('listen', '')
  if role in ('actor', 'evaluator') and not learner:
    raise errors.UserError(
      f'--role={role} needs the address of its learner: --learner=HOST:PORT, which the learner '
      'shows when it starts'
    )
  if role in ('all', 'learner') and values.learner:
    raise errors.UserError(f'--learner={learner} is for actors and evaluators: add --role=actor')
  if role in ('actor', 'evaluator') and values.listen:
    raise errors.UserError(f'--listen={listen} is for learners, and this is --role={role}')
  if role == 'evaluator' and values.actor_processes:
    raise errors.UserError(
      '--actor_processes is for learners and actors, and this is --role=evaluator'
    )
  if role == 'learner':
    listen = listen or f'127.0.0.1:{_PORT}'
  elif role == 'all' and (values.actor_processes or listen):
    listen = listen or '127.0.0.1:0'
  if listen:
    parse_address(listen, '--listen')
  if learner and not parse_address(learner, '--learner')[1]:
    raise errors.UserError(
      f'--learner is {learner!r}, expected a port other than 0: the one that the learner shows'
    )
  token = _token(values.token_file)
  if (
    role in ('all', 'learner')
    and listen
    and not is_loopback(parse_address(listen, '--listen')[0])
    and not token
  ):
    raise errors.UserError(
      f'the learner is to listen on {listen}, beyond this machine: that needs a token, so that nobody else joins. '
      f'Write a secret to a file and give it to all processes: --token_file=PATH (or {TOKEN_VARIABLE}=SECRET)'
    )
  return Cluster(
    role,
    listen,
    learner,
    values.actor_processes,
    values.name or found.get('name') or f'{socket.gethostname()}/{os.getpid()}',
    token,
    values.patience_seconds,
    found.get('learners', ()),
    found.get('index', 0),
  )


def places(who: Cluster, num_actors: int) -> int:
  """The number of actors of a run: those that it starts as processes, where there are no others."""
  return who.actor_processes if who.role == 'all' and who.actor_processes else num_actors


def assignments(who: Cluster, num_actors: int) -> range:
  """Those of a run's actors that work for this learner, by number.

  Raises:
    UserError: if not all learners have equally many.
  """
  count = max(1, len(who.learners))
  if num_actors % count:
    raise errors.UserError(
      f'num_actors is {num_actors}, expected a multiple of {count}: so many learners share them'
    )
  return range(who.index, num_actors, count)


def parse_address(address: str, flag: str) -> tuple[str, int]:
  """HOST:PORT as its parts. Raises UserError, naming the flag."""
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal() or int(port) > 65535:
    raise errors.UserError(
      f'{flag} is {address!r}, expected HOST:PORT, for example 127.0.0.1:{_PORT}'
    )
  return host.strip('[]'), int(port)


def join_address(host: str, port: int) -> str:
  """HOST:PORT; [HOST]:PORT of IPv6."""
  return f'[{host}]:{port}' if ':' in host else f'{host}:{port}'


def is_loopback(host: str) -> bool:
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:  # A name: only of this one is it certain.
    return host == 'localhost'


def _token(path: str | None) -> str:
  if not path:
    return os.environ.get(TOKEN_VARIABLE, '')
  try:
    token = pathlib.Path(path).expanduser().read_text().strip()
  except (OSError, ValueError) as error:
    raise errors.UserError(f'--token_file={path} cannot be read: {error}') from error
  if not token:
    raise errors.UserError(
      f'--token_file={path} is empty: expected a secret, for example of `openssl rand -hex 16`'
    )
  return token


def _from_cluster(values: flags.FlagValues) -> dict[str, Any]:
  """What TensorFlow's resolvers say of this task."""
  from tensorflow import distribute

  kind, resolvers = values.cluster, distribute.cluster_resolver
  try:
    if kind == 'tf_config':
      role, index, learners = _of_tf_config(resolvers.TFConfigClusterResolver)
    elif kind == 'slurm':
      role, index, learners = _of_slurm(resolvers.SlurmClusterResolver, values.learners)
    else:
      resolver = resolvers.KubernetesClusterResolver({'learner': ['job-name=learner']})
      role, index, learners = values.role, 0, tuple(resolver.cluster_spec().as_dict()['learner'])
    if role in ROLES and (type(index) is not int or index < 0):
      raise ValueError(f"the task's index is {index!r}")
    own = learners[index] if role in ('all', 'learner') else learners[index % len(learners)]
  except (
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    ZeroDivisionError,
    AttributeError,
  ) as error:
    raise errors.UserError(
      f'--cluster={kind}: the cluster cannot be read: {type(error).__name__}: {error}. Expected '
      + {
        'tf_config': 'TF_CONFIG={"cluster": {"learner": ["HOST:PORT"], "actor": ["HOST:PORT", ...]}, "task": '
        '{"type": "actor", "index": 0}}',
        'slurm': 'to be started by srun',
        'kubernetes': 'the package kubernetes, and a learner whose pod has the label job-name=learner',
      }[kind]
    ) from error
  if role not in ROLES:
    raise errors.UserError(
      f'--cluster={kind}: this task is {role!r}, expected one of {", ".join(ROLES)}'
      + ('; give it with --role' if kind == 'kubernetes' else '')
    )
  if role in ('all', 'learner'):
    return {
      'role': role,
      'listen': own,
      'index': index,
      'learners': learners if len(learners) > 1 else (),
    }
  return {'role': role, 'learner': own, 'name': f'{role}-{index}'}


def _of_tf_config(resolver_class) -> tuple[str, int, tuple[str, ...]]:
  """Role and index of this task, and the learners' addresses."""
  if 'TF_CONFIG' not in os.environ:
    raise ValueError('the environment variable TF_CONFIG is not set')
  resolver = resolver_class()
  return resolver.task_type, resolver.task_id, tuple(resolver.cluster_spec().as_dict()['learner'])


def _of_slurm(resolver_class, num_learners: int) -> tuple[str, int, tuple[str, ...]]:
  """The same."""
  tasks = int(os.environ.get('SLURM_STEP_NUM_TASKS') or os.environ['SLURM_NTASKS'])
  # The resolver gives the first tasks to the job whose name comes first.
  jobs = {'0/learner': num_learners} | (
    {'1/actor': tasks - num_learners} if tasks > num_learners else {}
  )
  # GPUs are none of its business: as many as tasks keep it from counting them.
  resolver = resolver_class(
    jobs, port_base=_PORT, gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
  )
  learners = tuple(resolver.cluster_spec().as_dict()['0/learner'])
  job, index = resolver.get_task_info()  # Which is known only now.
  return job.partition('/')[2], index, learners
