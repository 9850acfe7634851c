#!/usr/bin/env bash
# Sets everything up and runs the main job: trains on the recorded GSM8K responses (where these cannot be had, on the mini
# pool's, which ship with the package) and writes a report to runs/.
# Arguments are passed on: bash launch/quickstart.sh --config.dataset.manual_dir=DIR
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/install.sh
install_selectllm
exec .venv/bin/python -m selectllm.main "$@"
