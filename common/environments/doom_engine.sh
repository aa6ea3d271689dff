#!/bin/sh
# VizDoom's engine makes a folder and writes its settings where it stands: let that be the run's temporary folder.
# That folder is made here, as two engines that start at once and both find it missing would quarrel over it.
cd "${TMPDIR:-/tmp}" && mkdir -p _vizdoom || exit 1
# For the janitor: an engine that dies while it starts leaves shared memory that is named after one of its arguments.
# In front, the part of the run that it belongs to.
[ -z "$DISTRIBUTED_RL_RUN" ] || echo "${DISTRIBUTED_RL_PART:-/} $*" >> engines
# In a session of its own, where it can be, no signal to the run's process group reaches it: Ctrl-C stops the run in
# order, and after a kill the janitor still finds it, with its shared memory.
command -v setsid >/dev/null && exec setsid "$VIZDOOM_ENGINE" "$@"
exec "$VIZDOOM_ENGINE" "$@"
