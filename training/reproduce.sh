#!/usr/bin/env bash
# The paper's experiment: data -> folds -> stage 1, stage 2 without cue weights -> cues -> stage 2 with them -> table -> weights.
#   training/reproduce.sh [RECIPE.toml] [WEIGHTS_FOLDER]
#   training/reproduce.sh --smoke [WEIGHTS_FOLDER]   (smoke.toml: tiny networks on phantoms, minutes, needs no data, begins anew)
# Stopped at any point, it goes on where it was when called again. All paths are taken from the repository's root, wherever it is called.
#   DATA        training data as NAME=FOLDER ..., each layout that prepare knows (default: sts=../shared/data/sts where it is)
#   ORGAN_MAPS  organ label maps for the phantoms (default: ../shared/data/organ_maps where they are)
#   PHANTOMS    fresh phantoms that each fold is scored on beside its patients (default: 2)
#   TRACER      which studies of autoPET III and IV, for prepare and evaluate: fdg (default), psma or all
#   PREPARE     further flags of prepare, e.g. "--splits dealt"
#   LAUNCH      how a network's training is started, e.g. "torchrun --nproc-per-node 8 -m" (default: one process)
#   LAUNCH2     the same for stage 2, whose batch may be smaller (default: as LAUNCH)
#   FLAGS       further flags of the trainings, e.g. "--precision bf16 --workers 8"
#   LANES       how many networks train at once (default: 1), one process each; GPUs are dealt out in turn, on a CPU the cores are shared
set -euo pipefail
cd "$(dirname "$0")/.."

smoke=
if [ "${1:-}" = --smoke ]; then
  smoke=yes
  if [[ ${2:-} = *.toml || $# -gt 2 ]]; then
    echo "error: --smoke ${*:2}: it has a recipe of its own; give at most a weights folder" >&2
    exit 2
  fi
  set -- training/recipes/smoke.toml "${@:2}"
fi
recipe=${1:-training/recipes/small.toml}
out=${2:-}
python=${PYTHON:-.venv/bin/python}
runs=${L2S_RUNS:-$HOME/.cache/l2s/runs}
read -r -a launch <<< "${LAUNCH:-$python -m}"
read -r -a launch2 <<< "${LAUNCH2:-${LAUNCH:-$python -m}}"
read -r -a prepare <<< "${PREPARE:-}"
read -r -a flags <<< "${FLAGS:-}"
tracer=(--tracer "${TRACER:-fdg}")
lanes=${LANES:-1}
if ! [[ $lanes =~ ^[1-9][0-9]?$ ]]; then
  echo "error: LANES=$lanes: a number of trainings at once, 1 to 99" >&2
  exit 2
elif [ "$lanes" -gt 1 ] && [ -n "${LAUNCH:-}${LAUNCH2:-}" ]; then
  echo "error: LANES=$lanes with LAUNCH: a lane is one process; leave one of the two out" >&2
  exit 2
fi

if [ -n "$smoke" ]; then
  out=${out:-output/smoke/weights}
  rm -rf output/smoke # a smoke test that goes on from the last one proves nothing
  runs=$PWD/output/smoke/runs
  export L2S_RUNS=$runs
  # six phantoms play the patients
  "$python" -m l2s.cli phantom output/smoke/data --cases 6 --seed 900 --shape 60 40 48 --spacing-mm 10 10 10
  DATA="sts=output/smoke/data"
  ORGAN_MAPS=
else
  [ -d ../shared/data/sts ] && DATA=${DATA:-sts=../shared/data/sts}
  [ -d ../shared/data/organ_maps ] && ORGAN_MAPS=${ORGAN_MAPS-../shared/data/organ_maps}
fi

data=()
for entry in ${DATA:-}; do data+=(--data "$entry"); done
maps=()
[ -n "${ORGAN_MAPS:-}" ] && maps=(--organ-maps "$ORGAN_MAPS")
# each lane's share of the cores; the flag's own default is for one training alone, and a later --workers in FLAGS overrules it
spare=$(($(nproc) / lanes - 1))
[ "$lanes" -eq 1 ] || flags=(--workers "$((spare > 8 ? 8 : spare > 0 ? spare : 1))" "${flags[@]}")

queue=()
# later COMMAND ...: for run_queue, in order
later() {
  local line
  printf -v line '%q ' "$@"
  queue+=("$line")
}
# runs what is queued, as many at once as there are lanes; after a failure nothing further is begun
run_queue() {
  if [ "$lanes" -eq 1 ]; then
    for line in "${queue[@]}"; do bash -c "$line" || exit $?; done
  else
    local threads=$(($(nproc) / lanes)) found
    found=$(nvidia-smi --query-gpu=index --format=csv,noheader 2> /dev/null | paste -sd,) || true
    export OMP_NUM_THREADS_LANE=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))} GPUS=${CUDA_VISIBLE_DEVICES-$found}
    # shellcheck disable=SC2016 # for the lane's own shell, which knows its number
    printf '%s\n' "${queue[@]}" | xargs -P "$lanes" --process-slot-var=LANE -d '\n' -I{} bash -c '
      export OMP_NUM_THREADS=$OMP_NUM_THREADS_LANE
      IFS=, read -ra gpus <<< "$GPUS"
      [ ${#gpus[@]} -eq 0 ] || export CUDA_VISIBLE_DEVICES=${gpus[LANE % ${#gpus[@]}]}
      {} || exit 255'
  fi
  queue=()
}

field() { "$python" -m training.recipe "$1" "$2"; }

# trains both stages of a recipe on all its cases, for others to start from
start_weights() {
  local weights
  weights=$runs/$(field "$1" name)/weights
  "$python" -m training.prepare --recipe "$1" "${maps[@]}"
  later "${launch[@]}" training.train_localizer --recipe "$1" "${flags[@]}"
  later "${launch2[@]}" training.train_segmenter --recipe "$1" "${flags[@]}"
  run_queue
  "$python" -m training.export --recipe "$1" --out "$weights"
}

run=$runs/$(field "$recipe" name)
folds=$(seq 0 $(($(field "$recipe" folds) - 1)))
init=()
start=$(field "$recipe" start)

# before the start's hours of training: a mistyped DATA shows here
"$python" -m training.prepare --recipe "$recipe" "${data[@]}" "${tracer[@]}" "${maps[@]}" "${prepare[@]}"

if [ -n "$start" ]; then
  start_weights "$start"
  init=(--init "$runs/$(field "$start" name)/weights")
fi

for fold in $folds; do
  later "${launch[@]}" training.train_localizer --recipe "$recipe" --fold "$fold" "${init[@]}" "${flags[@]}"
done
[ -z "$out" ] || later "${launch[@]}" training.train_localizer --recipe "$recipe" "${init[@]}" "${flags[@]}"
# what needs no cues keeps the lanes busy until the last stage 1 is done
for fold in $folds; do
  later "${launch2[@]}" training.train_segmenter --recipe "$recipe" --fold "$fold" --plain "${init[@]}" "${flags[@]}"
done
run_queue

if [ "$(field "$recipe" cues)" = out-of-fold ]; then
  "$python" -m training.make_cues --recipe "$recipe"
else
  for fold in $folds; do later "$python" -m training.make_cues --recipe "$recipe" --fold "$fold"; done
  [ -z "$out" ] || later "$python" -m training.make_cues --recipe "$recipe"
  run_queue
fi

weights=()
plain=()
for fold in $folds; do
  later "${launch2[@]}" training.train_segmenter --recipe "$recipe" --fold "$fold" "${init[@]}" "${flags[@]}"
done
[ -z "$out" ] || later "${launch2[@]}" training.train_segmenter --recipe "$recipe" "${init[@]}" "${flags[@]}"
run_queue

for fold in $folds; do
  "$python" -m training.export --recipe "$recipe" --fold "$fold" --out "$run/fold_$fold/weights"
  "$python" -m training.export --recipe "$recipe" --fold "$fold" --plain --out "$run/fold_$fold/weights_plain"
  weights+=("$run/fold_$fold/weights")
  plain+=("$run/fold_$fold/weights_plain")
done

"$python" -m training.evaluate --weights "${weights[@]}" --plain "${plain[@]}" "${data[@]}" "${tracer[@]}" "${maps[@]}" \
  --phantoms "${PHANTOMS:-2}" --out "$run/evaluation"

[ -z "$out" ] || "$python" -m training.export --recipe "$recipe" --out "$out"
echo "table: $run/evaluation/table.md"
[ -z "$out" ] || echo "weights: $out"
