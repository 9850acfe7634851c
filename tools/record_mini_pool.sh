#!/usr/bin/env bash
# Records the mini pool anew: serves the two LLMs, asks each of the eight members every question twice, and packs what they
# answered into the package. It takes more than an hour; the same command goes on where it was interrupted. Latencies are
# measured, so leave the machine alone meanwhile: the servers share it, one core each.
#   bash tools/record_mini_pool.sh [FOLDER]     journals and logs go there, runs/mini_recording by default
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -z "${SELECTLLM_POOL_IS_UP:-}" ]]; then  # once more, with the servers
  SELECTLLM_POOL_IS_UP=1 exec bash launch/local_pool.sh bash tools/record_mini_pool.sh "$@"
fi
source launch/install.sh
install_selectllm collect
readonly OUT="${1:-runs/mini_recording}"
mkdir -p "$OUT"
.venv/bin/python -m tools.mini_pool_questions >"$OUT/questions.jsonl"

collect() {  # workdir, further flags
  .venv/bin/python -m selectllm.main --config=configs/mini.py:collect --workdir="$1" \
    --config.collect.queries="$OUT/questions.jsonl" "${@:2}"
}

# One after the other, the members of a server find their worked examples in its cache.
record() {  # server, members
  local member code status=0
  for member in "${@:2}"; do
    code=0
    collect "$OUT/$1" --config.pool.llms="('$member',)" >>"$OUT/$1.log" 2>&1 || code=$?
    if ((code >= 128)); then return "$code"; fi  # interrupted
    if ((code)); then status=1; fi
  done
  return "$status"
}

echo "Recording; progress is in $OUT/smollm2.log and $OUT/gemma.log" >&2
record smollm2 smollm2-chat smollm2-direct smollm2-thinking smollm2-calculator-parts &
first=$!
record gemma gemma-calculator-sums gemma-calculator-products gemma-calculator-money gemma-calculator-measures &
second=$!
failed=''
wait "$first" || failed="$failed $OUT/smollm2.log"
wait "$second" || failed="$failed $OUT/gemma.log"
if [[ -n "$failed" ]]; then
  echo "The recording is not complete; see the end of$failed. If it was interrupted, the same command goes on." >&2
  exit 1
fi
collect "$OUT" --config.collect.merge="('$OUT/smollm2/journal.jsonl','$OUT/gemma/journal.jsonl')"
.venv/bin/python -m tools.pack_mini_pool --responses="$OUT/responses.jsonl" --servers=.venv-pool/bin/python
