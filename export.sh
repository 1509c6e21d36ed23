#!/usr/bin/env bash
# Packs image and weights for an upload:   ./export.sh [TAG] [FOLDER]   (default l2snet, dist)
# FOLDER/TAG.tar.gz is the image, FOLDER/model.tar.gz the weights, which the platform extracts to /opt/ml/model.
set -euo pipefail
cd "$(dirname "$0")"

tag=${1:-l2snet}
folder=${2:-dist}
[ -f weights/manifest.json ] || { echo "error: weights/manifest.json is missing; there are no weights to pack" >&2; exit 2; }
docker image inspect "$tag" >/dev/null 2>&1 || { echo "error: no image $tag; run ./build.sh first" >&2; exit 2; }
mkdir -p "$folder"

zip=gzip
if command -v pigz >/dev/null; then zip=pigz; fi
image=$folder/${tag//[:\/]/_}.tar.gz
model=$folder/model.tar.gz
trap 'rm -f "$image.partial" "$model.partial"' EXIT
docker save "$tag" | "$zip" -c >"$image.partial"
mv "$image.partial" "$image"
# readable by whatever user the platform runs the image as
tar -czf "$model.partial" --mode=a+rX --owner=0 --group=0 -C weights .
mv "$model.partial" "$model"

for file in "$image" "$model"; do
  echo "$file: $(($(stat -c %s "$file") / 1000000)) MB, sha256 $(sha256sum "$file" | cut -d' ' -f1)"
done
