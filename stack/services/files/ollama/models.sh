#!/bin/bash
# Has every model of KIT_MODELS on the server. Nothing is ever removed here.
#
# Names that start with kit-tiny- are made from the files the air-gapped image carries, all others are pulled.
# A model that is there already is not pulled again: newer weights under an old name come when asked for.
set -euo pipefail

tiny=/models
total=$(set -- $KIT_MODELS; echo $#)
number=0
failed=()

present() { ollama show "$1" >/dev/null 2>&1; }

make_tiny() {
    local name=${1%%:*}
    local file="${name#kit-tiny-}.Modelfile"
    if [ ! -f "$tiny/$file" ]; then
        echo "  $1 is no model of this image: there is no $tiny/$file"
        return 1
    fi
    (cd "$tiny" && ollama create "$1" -f "$file" 2>&1 | progress)
}

# The command line redraws its bar many times a second. Here a line is written when its words change, and once for
# every tenth of a download: without escape sequences, spinners (braille, \xe2\xa0 and on) and unchanged repetitions.
progress() {
    tr '\r' '\n' | LC_ALL=C sed -u 's/\x1b\[[0-9;?]*[A-Za-z]//g; s/\xe2[\xa0-\xa3].*//; s/ *$//' | LC_ALL=C awk '
        /[^ ]/ {
            key = $0
            if (match(key, /[0-9]+%/)) key = substr(key, 1, RSTART - 1) int(substr(key, RSTART, RLENGTH - 1) / 10)
            if (key != last) { print "  " $0; fflush() }
            last = key
        }'
}

for model in $KIT_MODELS; do
    number=$((number + 1))
    if present "$model"; then
        echo "[$number/$total] $model is there"
        continue
    fi
    echo "[$number/$total] $model: fetching"
    case $model in
        kit-tiny-*) make_tiny "$model" || failed+=("$model") ;;
        *) ollama pull "$model" 2>&1 | progress || failed+=("$model") ;;
    esac
    present "$model" && echo "[$number/$total] $model is there"
done

if [ "${#failed[@]}" -gt 0 ]; then
    echo "not to be had: ${failed[*]}. Is the name right, and does this machine reach the model registry?"
    exit 1
fi
