#!/usr/bin/env bash
# VNN-COMP: install_tool.sh v1. Sets certify up in .venv beside this folder.
set -euo pipefail
[ "${1:-}" = v1 ] || { echo "usage: install_tool.sh v1" >&2; exit 2; }
for tool in make g++; do
  command -v "$tool" >/dev/null || echo "$tool is missing: sudo apt-get install -y make g++ python3-dev python3-venv" >&2
done
make -C "$(dirname "$0")/.." setup
