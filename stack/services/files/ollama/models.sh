#!/bin/bash
# Has every model of KIT_MODELS on the server, tuned to KIT_THREADS. Nothing is ever removed here.
#
# Names that start with kit-tiny- are made from the files the air-gapped image carries, all others are pulled.
# A model that is there already is not pulled again: newer weights under an old name come only with KIT_REFRESH=1.
# Then what the name stood for before stays as <name>-kept-<version>; it costs no space but for weights that differ.
set -euo pipefail

tiny=/models
total=$(set -- $KIT_MODELS; echo $#)
number=0
failed=()

# As the server lists it: with a tag.
tagged() { case ${1##*/} in *:*) echo "$1" ;; *) echo "$1:latest" ;; esac; }

# The twelve digits by which the server's list tells versions apart; nothing for a model that is not there.
version() { ollama list 2>/dev/null | awk -v name="$1" 'NR > 1 && $1 == name { print $2 }' || true; }

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

# The threads are a parameter of the model: a layer of a few bytes over the same weights. The same model and the same
# number give the same version, so doing it again after a pull is no change. The tiny ones get one thread: with more they
# only wait for each other after every step (beside other work on two cores: 4 tokens a second instead of 2,400).
tune() {
    local now threads=$KIT_THREADS
    case $1 in kit-tiny-*) threads=1 ;; esac
    now=$(ollama show "$1" --parameters 2>/dev/null | awk '$1 == "num_thread" { print $2 }' || true)
    [ "$now" = "$threads" ] && return
    printf 'FROM %s\nPARAMETER num_thread %s\n' "$1" "$threads" >"$scratch/Modelfile"
    (cd "$scratch" && ollama create "$1" -f Modelfile >/dev/null 2>&1) || echo "  $1: its threads could not be set"
}

# A second name that turned out not to be needed; "" is none.
forget() { [ -z "$1" ] || ollama rm "$1" >/dev/null 2>&1 || echo "  $1 could not be taken away"; }

fetch() {
    case $1 in
        kit-tiny-*) make_tiny "$1" ;;
        *) ollama pull "$1" 2>&1 | progress ;;
    esac
}

scratch=$(mktemp -d)
for asked in $KIT_MODELS; do
    number=$((number + 1))
    model=$(tagged "$asked")
    before=$(version "$model")
    if [ -n "$before" ] && [ -z "${KIT_REFRESH:-}" ]; then
        tune "$model"
        echo "[$number/$total] $asked is there: $(version "$model")"
        continue
    fi
    echo "[$number/$total] $asked: fetching"
    kept=
    # Before the pull: it would throw away weights that nothing names any more.
    if [ -n "$before" ] && [ -z "$(version "$model-kept-$before")" ]; then
        kept=$model-kept-$before
        ollama cp "$model" "$kept" >/dev/null 2>&1 || { echo "  $before cannot be kept"; failed+=("$asked"); continue; }
    fi
    if ! fetch "$model"; then
        failed+=("$asked")
        forget "$kept"
        continue
    fi
    tune "$model"
    after=$(version "$model")
    if [ -z "$before" ]; then
        echo "[$number/$total] $asked is there: $after"
    elif [ "$after" = "$before" ]; then
        forget "$kept"
        echo "[$number/$total] $asked has nothing newer: $after"
    else
        echo "[$number/$total] $asked is $after now, $before stays"
    fi
done

if [ "${#failed[@]}" -gt 0 ]; then
    echo "not to be had: ${failed[*]}. Is the name right, and does this machine reach the model registry?"
    exit 1
fi
