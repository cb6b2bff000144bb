#!/usr/bin/env bash
# Usage: venv.sh FOLDER PYTHON REQUIREMENTS  Makes the environment anew when it is missing or broken; hashes are required.
set -euo pipefail
folder=$1 python=$2 requirements=$3
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Python 3.11 or newer is needed: install it, or name it: make PYTHON=/path/to/python3.11 ..." >&2
    exit 1
fi
# Without Debian's python3-venv a folder with python and no pip is left: pip is what shows that one is whole.
if ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$folder"
    "$python" -m venv "$folder" || {
        rm -rf "$folder"
        echo "the module venv is missing; on Debian: apt-get install python3-venv" >&2
        exit 1
    }
fi
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$requirements"
