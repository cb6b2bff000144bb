#!/usr/bin/env bash
# Usage: locks.sh VENV [--check]  Compiles requirements/*.in. --check only sees that each lock still answers its .in,
# without looking for newer versions.
set -euo pipefail
venv=$1 check=${2:-}
compile() {
    "$venv/bin/uv" pip compile --quiet --generate-hashes --no-header --no-emit-index-url --no-annotate \
        --python-version 3.11 "$@"
}
for source in requirements/*.in; do
    lock=${source%.in}.txt
    options=()
    [ "$source" = requirements/models.in ] && options=(--no-deps)
    if [ -z "$check" ]; then
        compile "${options[@]}" "$source" -o "$lock" --upgrade
        continue
    fi
    copy=$(mktemp)
    cp "$lock" "$copy"
    compile "${options[@]}" "$source" -o "$copy"
    if ! cmp -s "$lock" "$copy"; then
        echo "$lock does not answer $source any more: run make locks" >&2
        rm -f "$copy"
        exit 1
    fi
    rm -f "$copy"
done
# Which of all those files each architecture's image installs; a unit test holds them against the locks.
[ -n "$check" ] || "$venv/bin/python" -m tests.wheels requirements/operator.txt requirements/runtime.txt
if grep -lE 'https?://' requirements/*.txt; then
    echo "the lock files above record addresses" >&2
    exit 1
fi
