# One image for the node (`kingbus node`), the command line and the operator, from the lock files, without compilers.
#   docker build -t kingbus .
#   docker run -v kingbus:/var/lib/kingbus -v $PWD:/etc/kingbus:ro kingbus    # reads /etc/kingbus/kingbus.yaml
# `make image` builds it without Docker too; docs/kubernetes.md says how big it is and how it may run.
ARG BASE_IMAGE=python:3.13-slim-bookworm

FROM ${BASE_IMAGE} AS build
# For builds behind a package mirror: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
# The same sources make the same files: no time of day gets into the wheel, the byte code, /etc/shadow.
ARG SOURCE_DATE_EPOCH=315532800
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/ requirements/
# The tools stay in an environment of their own, the product's has neither pip nor setuptools.
RUN python -m venv /opt/tools \
    && /opt/tools/bin/pip install --require-hashes -r requirements/build.txt \
    && python -m venv --without-pip /opt/kingbus \
    && /opt/tools/bin/pip --python /opt/kingbus/bin/python install --no-compile --require-hashes \
       -r requirements/node.txt -r requirements/operator.txt
# .dockerignore lets through only what the distribution is made of.
COPY . .
RUN /opt/tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/tools/bin/pip --python /opt/kingbus/bin/python install --no-compile --no-deps --no-index /dist/*.whl \
    # What dependencies bring to test themselves is a sixth of the whole.
    && find /opt/kingbus/lib -type d -name tests -prune -exec rm -rf {} + \
    # All of it (-f): pip has left byte code with times in it of what it imported itself.
    && /opt/kingbus/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /opt/kingbus/lib

FROM ${BASE_IMAGE}
ARG SOURCE_DATE_EPOCH=315532800
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Kingbus" \
      org.opencontainers.image.description="A distributed MySQL and MariaDB binlog server" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
RUN groupadd --gid 10001 kingbus \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/kingbus --create-home --shell /usr/sbin/nologin kingbus \
    && chmod 0750 /var/lib/kingbus
COPY --from=build /opt/kingbus /opt/kingbus
ENV PATH=/opt/kingbus/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/kingbus
VOLUME /var/lib/kingbus
# Replicas, Raft, admin.
EXPOSE 3306 7401 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["kingbus"]
CMD ["node", "--config", "/etc/kingbus/kingbus.yaml"]
