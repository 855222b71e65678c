# The service and its models, without torch:
#   docker build -t kotae .                               (CPU)
#   docker build -t kotae:gpu --build-arg EXTRA=gpu .     (NVIDIA GPU, or tensorrt; CUDA comes from pip)
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG EXTRA=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python3 -m venv --without-pip /opt/venv
# Dependencies first, so that this layer is cached until they change.
COPY pyproject.toml constraints.txt ./
RUN python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*p['dependencies'], *p['optional-dependencies']['${EXTRA}'], sep='\n')" > requirements.txt \
 && python3 -m pip --python /opt/venv/bin/python install --no-compile -c constraints.txt -r requirements.txt
# The build needs the training package, serving does not. Bytecode is not checked against file times: image layers
# round them to seconds, and many modules would be compiled again at each start.
COPY README.md LICENSE ./
COPY training training
COPY service service
RUN python3 -m pip --python /opt/venv/bin/python install --no-compile --no-deps . \
 && rm -rf /opt/venv/bin/kotae-train /opt/venv/lib/python3*/site-packages/training \
 && find /opt/venv/lib -type d -name tests -path '*site-packages/*' -prune -exec rm -rf {} + \
 && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kotae" \
      org.opencontainers.image.description="Serve image, speech and text models through batched ONNX Runtime endpoints." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    TMPDIR=/tmp \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    KOTAE_HOST=0.0.0.0 \
    KOTAE_MODELS=/models
COPY --from=build /opt/venv /opt/venv
COPY models /models
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('KOTAE_PORT') or 8080), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["kotae"]
CMD ["serve"]
