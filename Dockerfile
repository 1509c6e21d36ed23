# L2SNet for PET/CT as a grand-challenge algorithm. Research use only.
# ./build.sh builds it; BASE_IMAGE and PIP_OPTS come from its environment (--no-index --find-links=/wheels: all is in wheels/).
ARG BASE_IMAGE=python:3.11-slim

# The first stage keeps pip's downloads and a wheelhouse out of the image.
# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS build
ARG PIP_OPTS=""
COPY requirements.txt wheels* /wheels/
# hadolint ignore=SC2086
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check ${PIP_OPTS} -r /wheels/requirements.txt
COPY process.py /opt/app/
COPY l2s /opt/app/l2s
COPY weights /opt/app/weights
RUN /opt/venv/bin/python -m compileall -q /opt/app \
    && printf '#!/bin/sh\nexec python3 -m l2s.cli "$@"\n' >/opt/venv/bin/l2s && chmod 755 /opt/venv/bin/l2s \
    && chmod -R a+rX /opt/app

# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="l2snet" \
      org.opencontainers.image.description="Lesions in whole-body FDG PET/CT by L2SNet; research use only" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-log-init --home-dir /tmp --shell /usr/sbin/nologin l2s
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/app /opt/app
# A read-only root with an empty /tmp is enough: nothing is cached elsewhere, nothing is downloaded.
# The platform allows 256 threads: pools that grow with the host's cores and that nothing here gains from stay small.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    OPENBLAS_NUM_THREADS=1 \
    ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=4
WORKDIR /opt/app
USER 10001
ENTRYPOINT ["python3", "/opt/app/process.py"]
