# One image, three commands: `opsplane serve --host 0.0.0.0`, `opsplane worker`, `opsplane-deploy`.

FROM python:3.11-slim AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# Every pinned package is fetched and checked against its hash here; later stages install from these files alone.
COPY requirements.lock ./
RUN pip download --require-hashes --no-deps --only-binary :all: -r requirements.lock -d wheels
COPY pyproject.toml README.md LICENSE alembic.ini ./
COPY src src
COPY migrations migrations
COPY openapi openapi
COPY templates templates
COPY static static
RUN pip install --no-index --find-links wheels hatchling \
    && python -m hatchling build -t wheel -d wheels

FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1
# `opsplane` pulls in what it needs to run; the development tools among the files stay behind.
RUN --mount=type=bind,from=build,source=/build/wheels,target=/wheels \
    pip install --no-cache-dir --disable-pip-version-check --no-index --find-links /wheels opsplane
RUN useradd --system --uid 10001 --create-home --home-dir /home/opsplane opsplane
USER 10001
WORKDIR /home/opsplane
EXPOSE 8000
# For the API; the other commands have no port, so compose.yaml switches it off for them.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["opsplane", "serve", "--host", "0.0.0.0"]
