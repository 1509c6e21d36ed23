#!/usr/bin/env bash
# One choice of the recipe against another, both trained without fold 0 and scored on the patients it holds out and on fresh phantoms.
#   training/decisions.sh dice|neighbours|clip|norm|cues|windows|thresholds ... [RECIPE.toml]
# Needs reproduce.sh's cases, cues and fold 0. What changes the network, its input or its loss starts at random on both sides, the
# rest at the recipe's start: a start that was trained one way would favour it.
# DATA and ORGAN_MAPS as in reproduce.sh; PHANTOMS=how many fresh ones (default 12: of fewer than six a kind nothing is decided);
# EPOCHS=length of a run from a random start (default 20). Prints a Markdown table a choice.
set -euo pipefail
cd "$(dirname "$0")/.."

recipe=training/recipes/small.toml
choices=()
for word in "$@"; do case $word in *.toml) recipe=$word ;; *) choices+=("$word") ;; esac done
python=${PYTHON:-.venv/bin/python}
runs=${L2S_RUNS:-$HOME/.cache/l2s/runs}
data=()
for entry in ${DATA:-sts=../shared/data/sts}; do data+=(--data "$entry"); done
maps=${ORGAN_MAPS-}
[ -d ../shared/data/organ_maps ] && maps=${ORGAN_MAPS-../shared/data/organ_maps}
# phantoms too: the tumours' crops do not show organs that are taken for lesions
scored_on=("${data[@]}" --phantoms "${PHANTOMS:-12}")
[ -n "$maps" ] && scored_on+=(--organ-maps "$maps")
field() { "$python" -m training.recipe "$1" "$2"; }
base=$runs/$(field "$recipe" name)
start=$(field "$recipe" start)
init=()
[ -n "$start" ] && init=(--init "$runs/$(field "$(dirname "$recipe")/$start" name)/weights")

# variant NAME STAGE [FLAG ...]: trains one stage of fold 0 in a run of its own, the rest being the base's, and scores it
variant() {
  local run=$base-$1 stage=$2 other
  shift 2
  other=localizer
  [ "$stage" = localizer ] && other=segmenter
  mkdir -p "$run/fold_0"
  ln -sfn "$base/cases" "$run/cases"
  [ -e "$run/cues" ] || ln -sfn "$base/cues" "$run/cues"
  ln -sfn "$base/fold_0/$other" "$run/fold_0/$other"
  local settings=()
  for flag in "$@"; do [[ $flag == *=* ]] && settings+=(--set "$flag"); done
  local begin=()
  [[ " $* " == *" --init "* ]] && begin=("${init[@]}")
  if [[ " $* " == *'cues="in-fold"'* ]]; then
    "$python" -m training.make_cues --recipe "$recipe" --run-folder "$run" --fold 0 "${settings[@]}"
  fi
  "$python" -m "training.train_$stage" --recipe "$recipe" --run-folder "$run" --fold 0 "${settings[@]}" "${begin[@]}"
  "$python" -m training.export --recipe "$recipe" --run-folder "$run" --fold 0 "${settings[@]}" --out "$run/fold_0/weights"
  "$python" -m training.evaluate --weights "$run/fold_0/weights" "${scored_on[@]}" --out "$run/evaluation" > /dev/null
}

compare() { "$python" -m training.compare "$base-$1/evaluation" "$base-$2/evaluation" --method "$3"; }

epochs=${EPOCHS:-20}
for choice in "${choices[@]}"; do
  echo "## $choice"
  case $choice in
    dice)
      variant "dice-batch-$epochs" localizer "localizer.schedule.epochs=$epochs" 'dice="batch"'
      variant "dice-sample-$epochs" localizer "localizer.schedule.epochs=$epochs" 'dice="sample"'
      compare "dice-batch-$epochs" "dice-sample-$epochs" "2D U-Net"
      variant "dice-batch-3d-$epochs" segmenter "segmenter.schedule.epochs=$epochs" 'dice="batch"'
      variant "dice-sample-3d-$epochs" segmenter "segmenter.schedule.epochs=$epochs" 'dice="sample"'
      compare "dice-batch-3d-$epochs" "dice-sample-3d-$epochs" "L2SNet"
      ;;
    neighbours)
      variant "planes-5-$epochs" localizer "localizer.schedule.epochs=$epochs"
      variant "planes-1-$epochs" localizer "localizer.schedule.epochs=$epochs" localizer.network.neighbours=0
      compare "planes-5-$epochs" "planes-1-$epochs" "2D U-Net"
      ;;
    clip)
      variant "no-clip-$epochs" localizer "localizer.schedule.epochs=$epochs"
      variant "clip-$epochs" localizer "localizer.schedule.epochs=$epochs" localizer.planes.clip=true
      compare "no-clip-$epochs" "clip-$epochs" "2D U-Net"
      ;;
    norm)
      for norm in batch layer instance; do
        variant "norm-$norm-$epochs" segmenter "segmenter.schedule.epochs=$epochs" "segmenter.network.norm=\"$norm\"" \
          "segmenter.windows.windows=\"$([ "$norm" = instance ] && echo gaussian || echo tiles)\""
      done
      compare "norm-batch-$epochs" "norm-layer-$epochs" "L2SNet"
      compare "norm-batch-$epochs" "norm-instance-$epochs" "L2SNet"
      ;;
    cues)
      variant cues-out segmenter --init
      variant cues-in segmenter --init 'cues="in-fold"'
      compare cues-out cues-in "L2SNet + voxelwise"
      ;;
    windows)
      "$python" -m training.evaluate --weights "$base/fold_0/weights" "${scored_on[@]}" --windows tiles gaussian --out "$base-windows" \
        | sed -n -e '/^## /p' -e '/^| difference/,/^$/p'
      ;;
    thresholds)
      "$python" -m training.thresholds --weights "$base/fold_0/weights" "${data[@]}"
      ;;
    *)
      echo "error: '$choice' is none of dice, neighbours, clip, norm, cues, windows, thresholds" >&2
      exit 2
      ;;
  esac
done
