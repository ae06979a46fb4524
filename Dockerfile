# The project with its own Prefect: the image of the worker and of the server in compose.yaml.
FROM python:3.13-slim

ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 TZ=UTC
RUN useradd --create-home --uid 1000 taxi && mkdir /app && chown taxi /app
WORKDIR /app
USER taxi

# What the project needs, as requirements.lock pins it (uv checks the hashes of constraints), in a layer of its own.
COPY --chown=taxi pyproject.toml README.md requirements.lock ./
RUN mkdir prefect_flows && touch prefect_flows/__init__.py \
    && python -m venv .venv && python -m venv /tmp/uv && /tmp/uv/bin/pip install --no-cache-dir --quiet uv \
    && /tmp/uv/bin/uv pip install --no-cache --python .venv --compile-bytecode \
        --constraints requirements.lock --build-constraints requirements.lock --editable . \
    && rm -rf /tmp/uv

COPY --chown=taxi dbt_project.yml profiles.yml prefect.yaml ./
COPY --chown=taxi dbt_project dbt_project
COPY --chown=taxi prefect_flows prefect_flows

# Reports and the embedded warehouse outlive the container where these are volumes.
RUN mkdir reports data
ENV DUCKDB_PATH=/app/data/warehouse.duckdb

CMD ["prefect", "worker", "start", "--pool", "taxi-elt", "--type", "process"]
