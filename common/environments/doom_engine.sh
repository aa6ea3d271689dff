#!/bin/sh
# VizDoom's engine makes a folder and writes its settings where it stands: let that be the run's temporary folder.
cd "${TMPDIR:-/tmp}" && exec "$VIZDOOM_ENGINE" "$@"
