#!/usr/bin/env bash
# Builds the image.   ./build.sh [TAG]   (default l2snet)
# BASE_IMAGE: another base with Python 3.11. PIP_OPTS: more options for pip. Without a network, with all wheels in ./wheels:
#   PIP_OPTS="--no-index --find-links=/wheels" ./build.sh
set -euo pipefail
cd "$(dirname "$0")"

tag=${1:-l2snet}
args=()
if [ -n "${BASE_IMAGE:-}" ]; then args+=(--build-arg "BASE_IMAGE=$BASE_IMAGE"); fi
if [ -n "${PIP_OPTS:-}" ]; then args+=(--build-arg "PIP_OPTS=$PIP_OPTS"); fi

[ -f weights/manifest.json ] || { echo "error: weights/manifest.json is missing; the image needs weights" >&2; exit 2; }
DOCKER_BUILDKIT=1 docker build --platform linux/amd64 --tag "$tag" "${args[@]}" .
echo "built $tag: $(($(docker image inspect --format '{{.Size}}' "$tag") / 1000000)) MB"
