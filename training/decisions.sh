#!/usr/bin/env bash
# One choice of the recipe against another, both trained without fold 0 and scored on the patients it holds out and on fresh phantoms.
#   training/decisions.sh dice|neighbours|clip|norm|cues|windows|thresholds ... [RECIPE.toml]
# Every choice is compared with one ground: the recipe from random weights (a start that was trained one way would favour it), EPOCHS
# long (default 16), with in-fold cues (they need no other fold), in the run <name>-choices-<EPOCHS>. Stopped, it goes on when called again.
# Paths are taken from the repository's root. DATA, TRACER, ORGAN_MAPS and FLAGS as in reproduce.sh; PHANTOMS=how many fresh ones (default
# 12: of fewer than six a kind nothing is decided).
# Prints a Markdown table a choice.
set -euo pipefail
cd "$(dirname "$0")/.."

recipe=training/recipes/small.toml
choices=()
for word in "$@"; do
  case $word in
    *.toml) recipe=$word ;;
    dice | neighbours | clip | norm | cues | windows | thresholds) choices+=("$word") ;;
    *)
      echo "error: '$word' is none of dice, neighbours, clip, norm, cues, windows, thresholds, and no RECIPE.toml" >&2
      exit 2
      ;;
  esac
done
if [ ${#choices[@]} -eq 0 ]; then
  echo "error: no choice named: give one or more of dice, neighbours, clip, norm, cues, windows, thresholds" >&2
  exit 2
fi
python=${PYTHON:-.venv/bin/python}
epochs=${EPOCHS:-16}
ground=${L2S_RUNS:-$HOME/.cache/l2s/runs}/$("$python" -m training.recipe "$recipe" name)-choices-$epochs
[[ $ground = /* ]] || ground=$PWD/$ground # links to it lie elsewhere
data=()
for entry in ${DATA:-sts=../shared/data/sts}; do data+=(--data "$entry"); done
maps=${ORGAN_MAPS-}
[ -d ../shared/data/organ_maps ] && maps=${ORGAN_MAPS-../shared/data/organ_maps}
data+=(--tracer "${TRACER:-fdg}")
read -r -a flags <<< "${FLAGS:-}"
organs=()
[ -n "$maps" ] && organs=(--organ-maps "$maps")
# phantoms too: the tumours' crops do not show organs that are taken for lesions
scored_on=("${data[@]}" --phantoms "${PHANTOMS:-12}" "${organs[@]}")
# small.toml's rates are those of a tuning
common=(--recipe "$recipe" --set 'start=""' --set 'cues="in-fold"')
for stage in localizer segmenter; do
  common+=(--set "$stage.schedule.epochs=$epochs" --set "$stage.schedule.learning_rate=1e-3")
done

# score RUN [FLAG ...]: exports fold 0 and evaluates it; what is scored already is not scored again
score() {
  local run=$1
  shift
  "$python" -m training.export "${common[@]}" --run-folder "$run" --fold 0 "$@" --out "$run/fold_0/weights"
  "$python" -m training.evaluate --weights "$run/fold_0/weights" "${scored_on[@]}" --out "$run/evaluation" > /dev/null
}

make_ground() {
  "$python" -m training.prepare "${common[@]}" --run-folder "$ground" "${data[@]}" "${organs[@]}"
  "$python" -m training.train_localizer "${common[@]}" --run-folder "$ground" --fold 0 "${flags[@]}"
  "$python" -m training.make_cues "${common[@]}" --run-folder "$ground" --fold 0
  "$python" -m training.train_segmenter "${common[@]}" --run-folder "$ground" --fold 0 "${flags[@]}"
  score "$ground"
}

# variant NAME STAGE [a.b=VALUE ...]: trains one stage of fold 0 in a run of its own, the rest being the ground's, and scores it
variant() {
  local run=$ground-$1 stage=$2 other settings=()
  shift 2
  other=localizer
  [ "$stage" = localizer ] && other=segmenter
  for setting in "$@"; do settings+=(--set "$setting"); done
  mkdir -p "$run/fold_0"
  ln -sfn "$ground/cases" "$run/cases"
  ln -sfn "$ground/fold_0/cues" "$run/fold_0/cues"
  [ -e "$ground/cues" ] && ln -sfn "$ground/cues" "$run/cues"
  ln -sfn "$ground/fold_0/$other" "$run/fold_0/$other"
  "$python" -m "training.train_$stage" "${common[@]}" --run-folder "$run" --fold 0 "${settings[@]}" "${flags[@]}"
  score "$run" "${settings[@]}"
}

# against_ground NAME METHOD: the ground first, the variant second
against_ground() { "$python" -m training.compare "$ground/evaluation" "$ground-$1/evaluation" --method "$2"; }

make_ground
for choice in "${choices[@]}"; do
  echo "## $choice"
  case $choice in
    dice)
      variant dice-2d localizer 'dice="sample"'
      against_ground dice-2d "2D U-Net"
      variant dice-3d segmenter 'dice="sample"'
      against_ground dice-3d "L2SNet"
      ;;
    neighbours)
      variant neighbours-0 localizer localizer.network.neighbours=0
      against_ground neighbours-0 "2D U-Net"
      ;;
    clip)
      variant clip localizer localizer.planes.clip=true
      against_ground clip "2D U-Net"
      ;;
    norm)
      variant norm-layer segmenter 'segmenter.network.norm="layer"'
      against_ground norm-layer "L2SNet"
      variant norm-instance segmenter 'segmenter.network.norm="instance"' 'segmenter.windows.windows="gaussian"'
      against_ground norm-instance "L2SNet"
      ;;
    cues) # each case's cue from the stage 1 that held it out needs every fold's stage 1
      for fold in $(seq 1 $(($("$python" -m training.recipe "$recipe" folds) - 1))); do
        "$python" -m training.train_localizer "${common[@]}" --run-folder "$ground" --fold "$fold" "${flags[@]}"
      done
      "$python" -m training.make_cues "${common[@]}" --run-folder "$ground" --set 'cues="out-of-fold"'
      variant cues-out segmenter 'cues="out-of-fold"'
      against_ground cues-out "L2SNet + voxelwise"
      ;;
    windows)
      "$python" -m training.evaluate --weights "$ground/fold_0/weights" "${scored_on[@]}" --windows tiles gaussian --out "$ground-windows" \
        | sed -n -e '/^## /p' -e '/^| difference/,/^$/p'
      ;;
    thresholds)
      "$python" -m training.thresholds --weights "$ground/fold_0/weights" "${data[@]}"
      ;;
  esac
done
