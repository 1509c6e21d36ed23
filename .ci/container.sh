#!/usr/bin/env bash
# Builds the image and runs test.sh on it where there is no registry: Debian's docker in a network namespace of its own (no
# network: the build is offline by construction), a base made from Debian's packages, wheels collected on the host by .venv's pip.
set -euo pipefail
cd "$(dirname "$0")/.."

# a newer client earlier in PATH may lack buildx
export PATH=/usr/bin:/usr/sbin:/bin:/sbin:$PATH
work=$(mktemp -d /var/tmp/l2s-container.XXXXXX)
export DOCKER_HOST=unix://$work/docker.sock
unset DOCKER_CONFIG DOCKER_CONTEXT

own_wheels=
[ -d wheels ] || own_wheels=yes # a wheelhouse that was here before is used and stays

cleanup() {
  set +e
  if [ -n "${engine:-}" ]; then
    kill "$engine" 2>/dev/null
    wait "$engine"
  fi
  umount "$work"/exec/netns/* 2>/dev/null
  rm -rf "$work"
  [ -z "$own_wheels" ] || rm -rf wheels
}
trap cleanup EXIT

need_mb=25000
free_mb=$(df --output=avail -m "$work" | tail -n 1)
if [ "$free_mb" -lt "$need_mb" ]; then echo "error: $free_mb MB free in $work, the image needs $need_mb" >&2; exit 1; fi

begin=$SECONDS
say() { echo "-- $1 ($((SECONDS - begin)) s)"; }

say "docker"
# shellcheck disable=SC2016 # expanded by the inner shell
setsid unshare -n sh -c 'ip link set lo up; exec dockerd --iptables=false --ip6tables=false --data-root "$0/root" \
  --exec-root "$0/exec" --pidfile "$0/pid" -H "unix://$0/docker.sock"' "$work" >"$work/dockerd.log" 2>&1 </dev/null &
engine=$!
for _ in $(seq 120); do docker info >/dev/null 2>&1 && break; sleep 0.5; done
docker info >/dev/null 2>&1 || { echo "error: dockerd did not start" >&2; tail -n 20 "$work/dockerd.log" >&2; exit 1; }

say "base image from Debian's packages"
mmdebstrap -q --variant=minbase --include=ca-certificates,python3,python3-venv bookworm - \
  | docker import -c 'ENV LANG=C.UTF-8' - local/python-base:3.11 >/dev/null

say "wheels"
.venv/bin/python -m pip download --quiet --disable-pip-version-check --only-binary=:all: --python-version 3.11 \
  -r requirements.txt -d wheels

say "build"
BASE_IMAGE=local/python-base:3.11 PIP_OPTS="--no-index --find-links=/wheels" ./build.sh l2snet
[ -z "$own_wheels" ] || rm -rf wheels
megabytes=$(($(docker image inspect --format '{{.Size}}' l2snet) / 1000000))
if [ "$megabytes" -ge 10000 ]; then echo "error: the image has $megabytes MB, the platform takes 10000" >&2; exit 1; fi
user=$(docker image inspect --format '{{.Config.User}}' l2snet)
if [ -z "$user" ] || [ "$user" = root ] || [ "$user" = 0 ]; then echo "error: the image's user is '$user'" >&2; exit 1; fi

say "test.sh"
./test.sh

say "done"
