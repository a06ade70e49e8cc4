# syntax=docker/dockerfile:1
FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/gateway
COPY requirements.lock ./
RUN /opt/gateway/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway ./gateway
RUN /opt/gateway/bin/pip install --no-cache-dir --no-deps .

FROM python:3.12-slim
RUN useradd --system --uid 10001 --create-home gateway \
    && install --directory --owner gateway /data /config
COPY --from=build /opt/gateway /opt/gateway
COPY --chown=gateway models.yaml /config/models.yaml
COPY --chown=gateway policies /config/policies
ENV PATH=/opt/gateway/bin:$PATH \
    GATEWAY_HOME=/data \
    GATEWAY_MODELS=/config/models.yaml \
    GATEWAY_POLICIES=/config/policies \
    PYTHONUNBUFFERED=1
USER gateway
WORKDIR /data
VOLUME ["/config", "/data"]
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=3s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
# Other machines reach it, so it asks for an API key: gateway keys create --name NAME, in this container, before the start.
CMD ["gateway", "serve", "--host", "0.0.0.0", "--port", "8080"]
