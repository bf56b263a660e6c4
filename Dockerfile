# The image of all services; the command says which: python -m services.scheduler, services.machine_agent or
# services.node_runner. `make images` builds it, with the names and the package index that this machine is set to.
# What changes seldom comes first, so that another line of Python is another image within seconds.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS system
# cc is for programs that are compiled where they run.
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        ca-certificates gcc libc6-dev python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb

# python-logstash has no wheel, and is pure Python; all else is taken as it was built.
# A stage of its own: neither pip nor where it was told to look are part of the image.
FROM system AS dependencies
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv \
    && python3 -m venv /opt/venv
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST
COPY Pipfile.lock dist_zero_common/requirements.py /tmp/
RUN python3 /tmp/requirements.py default < /tmp/Pipfile.lock > /tmp/requirements.txt \
    && /opt/venv/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: \
        --no-binary python-logstash --require-hashes -r /tmp/requirements.txt \
    && /opt/venv/bin/pip check \
    && /opt/venv/bin/pip uninstall --quiet --yes pip \
    && echo /app > "$(echo /opt/venv/lib/python3*/site-packages)/dist_zero.pth" \
    && printf '#!/opt/venv/bin/python\nimport sys\nfrom dist_zero.cli.main import main\nsys.exit(main())\n' \
        > /opt/venv/bin/dist-zero \
    && chmod +x /opt/venv/bin/dist-zero

FROM system
RUN useradd --uid 1000 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin dist-zero \
    && install -d -o dist-zero -g dist-zero /data /logs
COPY --from=dependencies /opt/venv /opt/venv
# Containers may run as any user: whoever it is has a place that takes files, and reads these.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 PYTHONUNBUFFERED=1 \
    DIST_ZERO_METRICS_ADDRESS=0.0.0.0 \
    DIST_ZERO_STORE=/data DIST_ZERO_LOG_DIR=/logs
# Healthy is who makes progress, not who has a process.
HEALTHCHECK --interval=5s --timeout=10s --start-period=60s --retries=3 CMD ["python", "-m", "services.health"]
CMD ["dist-zero", "--help"]
WORKDIR /app
# Few layers: each costs some storage drivers seconds.
COPY . .
RUN python -m compileall -q -j 0 .
USER dist-zero
