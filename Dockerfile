# One image for all services of docker-compose.yml; they differ in their command.
FROM python:3.12-slim AS build
WORKDIR /source
# Versions and hashes come from the lock; psycopg includes libpq, so nothing is compiled.
COPY locks ./locks
RUN python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement locks/build.txt \
    && python -m venv /opt/coord \
    && /opt/coord/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement locks/runtime.txt
COPY pyproject.toml README.md LICENSE beat_schedule.py ./
COPY coordination ./coordination
COPY workers ./workers
# The wheel is built with this stage's Python, so that the build tools stay out of the image.
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/coord/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps dist/*.whl

FROM python:3.12-slim
# git: projects are identified by their remote, and jobs work in clones.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/coord --shell /usr/sbin/nologin coord \
    && install --directory --owner coord --group coord --mode 0700 /var/lib/coord
COPY --from=build /opt/coord /opt/coord
ENV PATH=/opt/coord/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/var/lib/coord \
    COORD_HOME=/var/lib/coord
USER coord
WORKDIR /var/lib/coord
CMD ["python", "-m", "workers"]
