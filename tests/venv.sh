#!/usr/bin/env bash
# Usage: venv.sh FOLDER PYTHON REQUIREMENTS  Makes the environment anew when it is missing or broken; hashes are required.
set -euo pipefail
folder=$1 python=$2 requirements=$3
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Python 3.11 or newer is needed: install it, or name it: make PYTHON=/path/to/python3.11 ..." >&2
    exit 1
fi
if ! "$folder/bin/python" -c '' 2>/dev/null; then
    rm -rf "$folder"
    "$python" -m venv "$folder" || {
        echo "the module venv is missing; on Debian: apt-get install python3-venv" >&2
        exit 1
    }
fi
"$folder/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$requirements"
