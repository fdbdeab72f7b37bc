# hrm serve, as a user without rights. Build and start it with compose.yaml; docs/deploy.md says more.
FROM python:3.12-slim AS build
# For a GPU: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
RUN python -m venv /opt/hrm \
 && PIP_EXTRA_INDEX_URL=$TORCH_INDEX /opt/hrm/bin/pip install --no-cache-dir -c constraints.txt '.[serve]'

FROM python:3.12-slim
COPY --from=build /opt/hrm /opt/hrm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin hrm
ENV PATH=/opt/hrm/bin:$PATH PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 HOME=/tmp
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["hrm", "serve", "--host", "0.0.0.0", "--api-key-file", "/run/secrets/keys"]
CMD ["sudoku"]
