# AI Fleet: one image, two roles (collector and dashboard). Works with BuildKit and with the legacy builder.
#
#   docker build -t ai-fleet .
#   docker build -t ai-fleet --build-arg PIP_OPTIONS="--no-index --find-links /build" .   # wheels in build/wheelhouse, no network
#
# The tag says what it is, the digest what is really used. Any image with Python 3.11 and /bin/sh will do.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${BASE_IMAGE} AS build
ARG PIP_OPTIONS=""
WORKDIR /build
# "build/wheelhouse*" matches nothing in a plain checkout; COPY needs at least one match, so it rides with requirements.txt.
COPY requirements.txt build/wheelhouse* /build/
# Without pip the image has no installer, and none of its findings in a scan.
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --only-binary :all: \
      --require-hashes ${PIP_OPTIONS} -r /build/requirements.txt \
 && /opt/venv/bin/python -m pip uninstall --yes --quiet setuptools pip

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="AI Fleet" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY LICENSE ./
COPY fleet ./fleet
COPY store ./store
COPY queries ./queries
COPY collectors ./collectors
COPY dashboard ./dashboard
COPY pages ./pages
COPY .streamlit ./.streamlit
COPY deploy/healthcheck.py ./deploy/healthcheck.py
# The root file system may be read-only, so byte code is made now; /data is a volume that takes over this owner.
RUN /opt/venv/bin/python -m compileall -q /app && mkdir -p /data && chown 10001:10001 /data && chmod 0700 /data
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    AIFLEET_DATA_DIR=/data \
    HEALTH_PORT=8710
# A number, so that Kubernetes' runAsNonRoot can check it without looking into /etc/passwd.
USER 10001:10001
VOLUME ["/data"]
EXPOSE 8710 8501
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=60s --retries=3 CMD ["python", "/app/deploy/healthcheck.py"]
ENTRYPOINT ["python", "-m"]
CMD ["collectors", "run"]
