#!/usr/bin/env bash
# Usage: step.sh TITLE COMMAND...  Says what begins, runs it, says how long it took; the exit code is the command's.
set -u
title=$1
shift
begun=$(date +%s)
printf '==> %s\n' "$title"
"$@"
code=$?
took=$(($(date +%s) - begun))
if [ "$code" -eq 0 ]; then
    printf '<== %s: done in %d s\n' "$title" "$took"
else
    printf '<== %s: FAILED after %d s (exit %d)\n' "$title" "$took" "$code" >&2
fi
exit "$code"
