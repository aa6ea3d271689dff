"""Roles and addresses as the cluster that started a process describes them: `tf.distribute`'s view.

The resolvers check nothing: a malformed description fails somewhere inside them, or gives odd
values, which `common.distributed.cluster` refuses.
"""

import os
from typing import Any, NamedTuple

# What each needs, for the message when it fails.
EXPECTED = {
  'tf_config': (
    'TF_CONFIG={"cluster": {"learner": ["HOST:PORT"], "actor": ["HOST:PORT", ...]}, '
    '"task": {"type": "actor", "index": 0}}'
  ),
  'slurm': 'to be started by srun',
  'kubernetes': 'the package kubernetes, and a learner whose pod has the label job-name=learner',
}
KINDS = tuple(EXPECTED)


class Task(NamedTuple):
  """A process, as a cluster describes it; unchecked."""

  role: Any
  index: Any
  learners: tuple[str, ...]


def task(kind: str, role: str | None, num_learners: int, port: int) -> Task:
  """This process. Imports TensorFlow, and raises whatever a resolver raises.

  Args:
    kind: One of `KINDS`.
    role: The role that the user gave, which Kubernetes does not know.
    num_learners: With Slurm, how many of the tasks are learners.
    port: With Slurm, the first learner's port.
  """
  from tensorflow import distribute  # Only here: it takes seconds, and flags rarely need it.

  resolvers = distribute.cluster_resolver
  if kind == 'tf_config':
    return _tf_config_task(resolvers.TFConfigClusterResolver)
  if kind == 'slurm':
    return _slurm_task(resolvers.SlurmClusterResolver, num_learners, port)
  # Kubernetes knows where learners are, but not what this pod is.
  resolver = resolvers.KubernetesClusterResolver({'learner': ['job-name=learner']})
  return Task(role, 0, tuple(resolver.cluster_spec().as_dict()['learner']))


def _tf_config_task(resolver_class: Any) -> Task:
  if 'TF_CONFIG' not in os.environ:
    raise ValueError('the environment variable TF_CONFIG is not set')
  resolver = resolver_class()
  learners = tuple(resolver.cluster_spec().as_dict()['learner'])
  return Task(resolver.task_type, resolver.task_id, learners)


def _slurm_task(resolver_class: Any, num_learners: int, port: int) -> Task:
  tasks = int(os.environ.get('SLURM_STEP_NUM_TASKS') or os.environ['SLURM_NTASKS'])
  # The resolver sorts jobs by name and gives the first its first tasks.
  jobs = {'0/learner': num_learners}
  if tasks > num_learners:
    jobs['1/actor'] = tasks - num_learners
  # Claiming one GPU per task keeps the resolver from counting and distributing GPUs.
  resolver = resolver_class(
    jobs, port_base=port, gpus_per_node=tasks, gpus_per_task=1, auto_set_gpu=False
  )
  learners = tuple(resolver.cluster_spec().as_dict()['0/learner'])
  job, index = resolver.get_task_info()  # Only valid after `cluster_spec`.
  return Task(job.partition('/')[2], index, learners)
