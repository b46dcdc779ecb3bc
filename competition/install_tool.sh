#!/usr/bin/env bash
# VNN-COMP: install_tool.sh v1. Sets certify up in .venv beside this folder.
set -euo pipefail
[ "${1:-}" = v1 ] || { echo "usage: install_tool.sh v1" >&2; exit 2; }
make -C "$(dirname "$0")/.." setup
