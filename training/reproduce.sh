#!/usr/bin/env bash
# The whole training in order; stopped at any point, it goes on where it was when called again.
#   training/reproduce.sh [RECIPE.toml] [FOLD] [WEIGHTS_FOLDER]
# STS and ORGAN_MAPS name the data folders; each may be absent.
set -euo pipefail
cd "$(dirname "$0")/.."

recipe=${1:-training/recipes/small.toml}
fold=${2:-0}
out=${3:-weights}
sts=${STS:-../shared/data/sts}
organ_maps=${ORGAN_MAPS:-../shared/data/organ_maps}
python=${PYTHON:-.venv/bin/python}

sources=()
[ -d "$sts" ] && sources+=(--sts "$sts")
[ -d "$organ_maps" ] && sources+=(--organ-maps "$organ_maps")

"$python" -m training.prepare --recipe "$recipe" "${sources[@]}"
"$python" -m training.train_localizer --recipe "$recipe" --fold "$fold"
"$python" -m training.make_cues --recipe "$recipe" --fold "$fold"
"$python" -m training.train_segmenter --recipe "$recipe" --fold "$fold"
"$python" -m training.export --recipe "$recipe" --fold "$fold" --out "$out"
"$python" -m training.evaluate --weights "$out" "${sources[@]}" --phantoms 20 --windows tiles gaussian --out output/evaluation
