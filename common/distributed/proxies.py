"""HTTP proxies that the environment names: none stands between the processes of a run.

gRPC sends everything through the proxy in `http_proxy`, loopback too. Actors do not come by that
way: Unix sockets have no proxy, and the gate's far end asks for none. Learners among each other do.
"""

import logging
import os
from typing import Sequence

from common.distributed import cluster

_EXEMPT = 'no_grpc_proxy'
_PROXIES = ('http_proxy', 'https_proxy', 'grpc_proxy', 'all_proxy')
# What gRPC reads if the first is not set.
_EXEMPT_BY_OTHERS = 'no_proxy'


def bypass(addresses: Sequence[str]) -> None:
  """Exempts hosts from gRPC's proxy, in this process and those it starts.

  Args:
    addresses: HOST:PORT of each.
  """
  if named := sorted(name for name in os.environ if name.lower() in _PROXIES):
    logging.info('Learners reach each other directly, not by the proxy of %s.', ', '.join(named))
  before = os.environ.get(_EXEMPT) or os.environ.get(_EXEMPT_BY_OTHERS, '')
  hosts = dict.fromkeys(entry.strip() for entry in before.split(',') if entry.strip())
  for address in addresses:
    hosts[cluster.parse_address(address, '--cluster').host] = None
  os.environ[_EXEMPT] = ','.join(hosts)
