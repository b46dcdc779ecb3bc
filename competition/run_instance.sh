#!/usr/bin/env bash
# VNN-COMP: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULT TIMEOUT. Writes RESULT; two seconds of the time are kept
# back. ONNX is a file, or a list of several: [('f', 'f.onnx'), ('g', 'g.onnx')]. If this script is stopped, so is
# certify, so that it takes nothing from the next instance. CERTIFY_PYTHON is as for prepare_instance.sh.
set -uo pipefail
[ "${1:-}" = v1 ] && [ $# -ge 6 ] || { echo "usage: run_instance.sh v1 CATEGORY ONNX VNNLIB RESULT TIMEOUT" >&2; exit 2; }
here=$(cd "$(dirname "$0")/.." && pwd)
python=${CERTIFY_PYTHON:-$here/.venv/bin/python}
limit=$(awk "BEGIN { t = $6 - 2; print (t > 1 ? t : 1) }")
echo error >"$5"
PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" "$python" -m certify verify "$3" "$4" --timeout "$limit" --result "$5" >&2 &
trap 'kill -KILL $!; wait $!; exit 1' TERM INT HUP
wait $!
case $? in 0 | 1 | 3) exit 0 ;; *) exit 1 ;; esac
