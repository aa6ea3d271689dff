"""Which hosts gRPC reaches without a proxy."""

import logging
import os

import pytest

from common.distributed import proxies


@pytest.mark.parametrize(
  'grpc, others, expected',
  [
    (None, None, 'a,::1'),
    (None, 'x.org, y', 'x.org,y,a,::1'),
    ('z', 'x.org', 'z,a,::1'),
    ('a', None, 'a,::1'),
    ('', 'x.org,', 'x.org,a,::1'),
  ],
)
def test_hosts_are_added_to_those_that_are_exempt_already(grpc, others, expected, monkeypatch):
  for name, value in (('no_grpc_proxy', grpc), ('no_proxy', others)):
    if value is None:
      monkeypatch.delenv(name, raising=False)
    else:
      monkeypatch.setenv(name, value)
  monkeypatch.setenv('no_grpc_proxy', os.environ.get('no_grpc_proxy', ''))  # Restored at the end.
  proxies.bypass(['a:1', '[::1]:2', 'a:3'])
  assert os.environ['no_grpc_proxy'] == expected


def test_the_variables_that_name_a_proxy_are_named(monkeypatch, caplog):
  for name in list(os.environ):
    if name.lower().endswith('_proxy'):
      monkeypatch.delenv(name)
  monkeypatch.setenv('no_grpc_proxy', '')
  with caplog.at_level(logging.INFO):
    proxies.bypass(['a:1'])
    assert not caplog.messages
    monkeypatch.setenv('http_proxy', 'http://somewhere:3128')
    proxies.bypass(['a:1'])
  assert caplog.messages == ['Learners reach each other directly, not by the proxy of http_proxy.']
