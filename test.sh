#!/usr/bin/env bash
# Runs the image as the platform does and checks what it writes.
#   ./test.sh            on two sample cases that the image itself makes
#   ./test.sh FOLDER     on your own: FOLDER/CASE/images/{ct,pet}/FILE, with FOLDER/CASE/truth.mha where there is a truth
# In the environment: TAG (default l2snet), MIN_DICE (default 0.3; the sample cases' mean), KEEP=1 keeps the working folder.
set -euo pipefail
given=${1:+$(realpath "$1")}
cd "$(dirname "$0")"

tag=${TAG:-l2snet}
min_dice=${MIN_DICE:-0.3}
floor=0.01 # of each sample case: a mask in the wrong place misses it, one small lesion among false marks does not
dices=()
docker image inspect "$tag" >/dev/null 2>&1 || { echo "error: no image $tag; run ./build.sh first" >&2; exit 2; }
work=$(mktemp -d)
chmod 755 "$work"

cleanup() {
  if [ -n "${KEEP:-}" ]; then echo "kept: $work"; return; fi
  # what the containers wrote belongs to the image's user: who is not root here cannot remove it from outside
  docker run --rm --network=none --user 0 -v "$work:/work" --entrypoint find "$tag" /work -mindepth 1 -delete || true
  rm -rf "$work"
}
trap cleanup EXIT

# every restriction that the platform sets, and a root that cannot be written
limits=(--rm --network=none --memory=30g --memory-swap=30g --cap-drop=ALL --security-opt=no-new-privileges --shm-size=128m
  --pids-limit=256 --read-only --tmpfs /tmp)
gpus=()
if nvidia-smi >/dev/null 2>&1 && docker run --gpus all "${limits[@]}" --entrypoint true "$tag" >/dev/null 2>&1; then
  gpus=(--gpus all)
else
  echo "warning: no GPU that docker can use; running on the CPU"
fi

if [ -n "$given" ]; then
  cases=$given
else
  cases=$work/cases
  mkdir -m 777 "$cases"
  docker run "${limits[@]}" -v "$cases:/cases" --entrypoint l2s "$tag" \
    phantom /cases --cases 2 --seed 41 --shape 272 112 144 --spacing-mm 4 4 4
fi

check_image=$(cat <<'PY'
import sys
import numpy as np
import SimpleITK as sitk

mask, pet = (sitk.ReadImage(path) for path in sys.argv[1:3])
for part in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
    if not np.allclose(getattr(mask, part)(), getattr(pet, part)(), atol=1e-4):
        sys.exit(f"{part[3:]} {getattr(mask, part)()} differs from the PET's {getattr(pet, part)()}")
if mask.GetPixelID() != sitk.sitkUInt8:
    sys.exit(f"pixel type {mask.GetPixelIDTypeAsString()}, uint8 is wanted")
values = np.unique(sitk.GetArrayViewFromImage(mask)).tolist()
if not set(values) <= {0, 1}:
    sys.exit(f"label values {values}, 0 and 1 are wanted")
PY
)

check() { # check CASE: runs the image on $cases/CASE; sets problem, which stays empty where all is well
  local in=$cases/$1 out=$work/output/$1 masks ct pet mask dice started=$SECONDS
  mkdir -p "$out"
  chmod 777 "$out" # for the image's user, whoever that is
  docker run "${limits[@]}" "${gpus[@]}" -v "$in:/input:ro" -v "$out:/output" "$tag" >"$work/$1.log" 2>&1 \
    || { problem="exit code $?"; sed 's/^/    /' "$work/$1.log"; return; }
  local seconds=$((SECONDS - started))

  mapfile -t masks < <(find "$out" -type f -not -name '*.json')
  ct=$(find "$in/images/ct" -type f)
  pet=$(find "$in/images/pet" -type f)
  if [ ${#masks[@]} -ne 1 ]; then problem="${#masks[@]} images written, exactly one is wanted"; return; fi
  if [ ! -f "$out/l2s-record.json" ]; then problem="no l2s-record.json"; return; fi
  mask=${masks[0]#"$out/"}
  ct=${ct##*/}
  if [ "${mask##*/}" != "$(sed -E 's/\.(mha|nii|nii\.gz)$//I' <<<"$ct").mha" ]; then
    problem="$mask is not named after $ct"
    return
  fi

  local inside=("${limits[@]}" -v "$in:/input:ro" -v "$out:/output")
  docker run "${inside[@]}" --entrypoint python3 "$tag" -c "$check_image" "/output/$mask" "/input${pet#"$in"}" \
    >"$work/$1.check" 2>&1 || { problem="the mask: $(tail -n 1 "$work/$1.check")"; return; }
  if [ ! -f "$in/truth.mha" ]; then echo "$1: $seconds s; no truth.mha to compare with"; return; fi
  docker run "${inside[@]}" --entrypoint l2s "$tag" evaluate /input/truth.mha "/output/$mask" --no-surface \
    --json /output/evaluation.json >/dev/null || { problem="the evaluation failed"; return; }
  dice=$(sed -nE 's/.*"dice": ([0-9.e-]+|null),?$/\1/p' "$out/evaluation.json" | head -n 1)
  echo "$1: $seconds s, Dice ${dice:-unknown} against the truth"
  # null: a truth without lesion has no Dice
  if [ -n "$given" ] || [ "$dice" = null ]; then return; fi
  dices+=("${dice:-0}")
  if ! awk -v d="$dice" -v m="$floor" 'BEGIN { exit !(d != "" && d + 0 >= m + 0) }'
  then problem="Dice $dice, at least $floor is wanted"; fi
}

passed=0 failed=0
for folder in "$cases"/*/images/; do
  [ -d "$folder" ] || { echo "error: $cases holds no CASE/images folder" >&2; exit 2; }
  name=$(basename "$(dirname "$folder")")
  problem=
  check "$name"
  if [ -z "$problem" ]; then
    passed=$((passed + 1))
    echo "passed: $name"
  else
    failed=$((failed + 1))
    echo "FAILED: $name: $problem"
  fi
done

if [ ${#dices[@]} -gt 0 ]; then
  mean=$(printf '%s\n' "${dices[@]}" | awk '{ sum += $1 } END { print sum / NR }')
  if ! awk -v d="$mean" -v m="$min_dice" 'BEGIN { exit !(d + 0 >= m + 0) }'; then
    failed=$((failed + 1))
    echo "FAILED: mean Dice $mean of the sample cases, at least $min_dice is wanted"
  fi
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
