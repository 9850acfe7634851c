#!/usr/bin/env bash
# Sets everything up and runs the tests, but for those marked slow or long (-m slow and -m long run these). Arguments are
# passed to pytest.
# SELECTLLM_TEST_DATA names a folder with the published responses; tests on them are skipped without it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/install.sh
install_selectllm test
exec .venv/bin/python -m pytest -m 'not slow and not long' --numprocesses=auto --maxprocesses=4 \
  --dist=loadgroup --no-loadscope-reorder "$@"
