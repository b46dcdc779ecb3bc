#!/usr/bin/env bash
# VNN-COMP: prepare_instance.sh v1 CATEGORY ONNX VNNLIB. Says whether the files can be read, and loads certify's own, so
# that they are in memory; nothing is analysed. ONNX is a file, or a list of several: [('f', 'f.onnx'), ('g', 'g.onnx')].
# CERTIFY_PYTHON names another interpreter than that of install_tool.sh.
set -euo pipefail
[ "${1:-}" = v1 ] && [ $# -ge 4 ] || { echo "usage: prepare_instance.sh v1 CATEGORY ONNX VNNLIB" >&2; exit 2; }
here=$(cd "$(dirname "$0")/.." && pwd)
python=${CERTIFY_PYTHON:-$here/.venv/bin/python}
[[ $3 == \[* ]] || [ -r "$3" ] || { echo "$3 cannot be read" >&2; exit 1; }
[ -r "$4" ] || { echo "$4 cannot be read" >&2; exit 1; }
PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m certify supports --onnx-operators >/dev/null
