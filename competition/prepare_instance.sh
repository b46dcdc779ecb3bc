#!/usr/bin/env bash
# VNN-COMP: prepare_instance.sh v1 CATEGORY ONNX VNNLIB. Says whether the network can be read; nothing is analysed.
set -euo pipefail
[ "${1:-}" = v1 ] && [ $# -ge 4 ] || { echo "usage: prepare_instance.sh v1 CATEGORY ONNX VNNLIB" >&2; exit 2; }
here=$(cd "$(dirname "$0")/.." && pwd)
[ -r "$3" ] && [ -r "$4" ] && exec "$here/.venv/bin/python" -m certify --version >&2
