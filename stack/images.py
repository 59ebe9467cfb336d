"""Every image pin, with the marker by which the update bot finds it.

`pinned` is the day on which the tag was chosen: change it with the tag. `programs` are those a health probe or the
start wrapper may call. `size_mb` is what the image takes on disk,
unpacked, for amd64: rounded estimates, used only to see whether all images fit the host's disk.
"""

from __future__ import annotations

from dataclasses import replace

from stack.model import Arch, ImagePin

BOTH = frozenset({Arch.AMD64, Arch.ARM64})

# The last line before 2.0. Business Source License: to use, not to sell as a service.
# renovate: datasource=docker depName=hashicorp/consul
CONSUL = ImagePin(
    name="consul",
    repository="docker.io/hashicorp/consul",
    tag="1.22.7",
    arches=BOTH,
    programs=frozenset({"consul", "curl", "sh", "wget"}),
    size_mb=220,
    pinned="2026-11-21",
)

# Said to be its last line; unconfirmed (docs/services/flowise.md).
# renovate: datasource=docker depName=flowiseai/flowise
FLOWISE = ImagePin(
    name="flowise",
    repository="docker.io/flowiseai/flowise",
    tag="3.1.4",
    arches=BOTH,
    programs=frozenset({"flowise", "node", "sh"}),
    size_mb=3000,
    pinned="2026-11-21",
)

# renovate: datasource=docker depName=dxflrs/garage
GARAGE = ImagePin(
    name="garage",
    repository="docker.io/dxflrs/garage",
    tag="v2.5.0",
    arches=BOTH,
    programs=frozenset({"/garage"}),  # one static program, and nothing beside it
    size_mb=30,
    pinned="2026-11-21",
)

# renovate: datasource=docker depName=haproxy versioning=docker
HAPROXY = ImagePin(
    name="haproxy",
    repository="docker.io/library/haproxy",
    tag="3.2.22",  # LTS, until 2030
    arches=BOTH,
    programs=frozenset({"bash", "haproxy", "sh"}),
    size_mb=110,
    pinned="2026-11-21",
)

# Its plugins are no part of it: stack/services/files/jenkins/plugins.txt.
# renovate: datasource=docker depName=jenkins/jenkins
JENKINS = ImagePin(
    name="jenkins",
    repository="docker.io/jenkins/jenkins",
    tag="2.568.2-lts-jdk21",
    arches=BOTH,
    programs=frozenset({"bash", "curl", "java", "sh"}),
    size_mb=480,
    pinned="2026-11-21",
)

# renovate: datasource=docker depName=quay.io/keycloak/keycloak
KEYCLOAK = ImagePin(
    name="keycloak",
    repository="quay.io/keycloak/keycloak",
    tag="26.7.4",  # not below 26.7.3: critical fixes
    arches=BOTH,
    programs=frozenset({"bash", "java", "sh"}),
    size_mb=480,
    pinned="2026-11-21",
)

# renovate: datasource=docker depName=goacme/lego
LEGO = ImagePin(
    name="lego",
    repository="docker.io/goacme/lego",
    tag="v4.35.2",
    arches=BOTH,
    programs=frozenset({"/lego", "nc", "sh", "wget"}),
    size_mb=120,
    pinned="2026-11-22",
)

# Versions 1.82.7 and 1.82.8 of its package stole credentials: a digest must be that of the release.
# renovate: datasource=docker depName=ghcr.io/berriai/litellm
LITELLM = ImagePin(
    name="litellm",
    repository="ghcr.io/berriai/litellm",
    tag="v1.106.2",
    arches=BOTH,
    programs=frozenset({"python3", "sh"}),
    size_mb=2300,
    pinned="2026-11-21",
)

# renovate: datasource=docker depName=n8nio/n8n
N8N = ImagePin(
    name="n8n",
    repository="docker.io/n8nio/n8n",
    tag="2.46.5",
    arches=BOTH,
    programs=frozenset({"n8n", "node", "sh"}),
    size_mb=1100,
    pinned="2026-11-21",
)

# Always the version of n8n: broker and runner speak one protocol.
# renovate: datasource=docker depName=n8nio/runners
N8N_RUNNERS = ImagePin(
    name="n8n-runners",
    repository="docker.io/n8nio/runners",
    tag="2.46.5",
    arches=BOTH,
    programs=frozenset({"node", "sh"}),
    size_mb=500,
    pinned="2026-11-21",
)

# The last long-term line: its successor by date is a major of its own, with another store format.
# renovate: datasource=docker depName=neo4j versioning=docker
NEO4J = ImagePin(
    name="neo4j",
    repository="docker.io/library/neo4j",
    tag="5.26.29-community",
    arches=BOTH,
    programs=frozenset({"bash", "sh"}),
    size_mb=600,
    pinned="2026-11-21",
)

# Never below 7.15.2: earlier ones could be talked around (GHSA-7x63-xv5r-3p2x, GHSA-5hvv-m4w4-gf6v). The image without
# -alpine has nothing to probe with.
# renovate: datasource=docker depName=quay.io/oauth2-proxy/oauth2-proxy versioning=docker
OAUTH2_PROXY = ImagePin(
    name="oauth2-proxy",
    repository="quay.io/oauth2-proxy/oauth2-proxy",
    tag="v7.15.3-alpine",
    arches=BOTH,
    programs=frozenset({"nc", "oauth2-proxy", "sh", "wget"}),
    size_mb=50,
    pinned="2026-11-21",
)

# renovate: datasource=docker depName=ollama/ollama
OLLAMA = ImagePin(
    name="ollama",
    repository="docker.io/ollama/ollama",
    tag="0.32.15",
    arches=BOTH,
    programs=frozenset({"bash", "ollama", "sh"}),
    size_mb=3500,  # CUDA libraries included
    pinned="2026-11-21",
)

# The same pin for the job that loads models: its air-gapped recipe carries the tiny models as well.
MODEL_LOADER = replace(OLLAMA, name="tiny-models", size_mb=0)

# renovate: datasource=docker depName=openbao/openbao
OPENBAO = ImagePin(
    name="openbao",
    repository="docker.io/openbao/openbao",
    tag="2.6.2",
    arches=BOTH,
    programs=frozenset({"bao", "sh", "wget"}),
    size_mb=230,
    pinned="2026-11-21",
)

# renovate: datasource=docker depName=ghcr.io/open-webui/open-webui
OPEN_WEBUI = ImagePin(
    name="open-webui",
    repository="ghcr.io/open-webui/open-webui",
    tag="v0.12.4",
    arches=BOTH,
    programs=frozenset({"bash", "curl", "jq", "python3", "sh"}),
    size_mb=4500,
    pinned="2026-11-21",
)

# renovate: datasource=docker depName=pgvector/pgvector
POSTGRES = ImagePin(
    name="postgres",
    repository="docker.io/pgvector/pgvector",
    tag="0.8.6-pg17-trixie",  # not below 0.8.3: HNSW index corruption
    arches=BOTH,
    programs=frozenset({"bash", "pg_isready", "psql", "sh"}),
    size_mb=460,
    pinned="2026-11-21",
)

# A snapshot is restored by the same minor only. Its allocator is built for pages of 4 KiB: with those of 16 KiB, as on
# a stock Raspberry Pi 5, it may end at once (github.com/qdrant/qdrant/issues/2474).
# renovate: datasource=docker depName=qdrant/qdrant
QDRANT = ImagePin(
    name="qdrant",
    repository="docker.io/qdrant/qdrant",
    tag="v1.20.0-unprivileged",  # the same server, owned by uid 1000
    arches=BOTH,
    programs=frozenset({"bash", "sh"}),
    size_mb=250,
    pinned="2026-11-21",
    page_sizes=frozenset({4096}),
)

# renovate: datasource=docker depName=redis
REDIS = ImagePin(
    name="redis",
    repository="docker.io/library/redis",
    tag="8.2.9",
    arches=BOTH,
    programs=frozenset({"bash", "redis-cli", "sh"}),
    size_mb=150,
    pinned="2026-11-21",
)

# The four of Supabase are a set: the tags of one revision of its own docker-compose.yml (February 2026).
# renovate: datasource=docker depName=supabase/gotrue
SUPABASE_AUTH = ImagePin(
    name="supabase-auth",
    repository="docker.io/supabase/gotrue",
    tag="v2.186.0",
    arches=BOTH,
    programs=frozenset({"auth", "sh", "wget"}),
    size_mb=60,
    pinned="2026-11-21",
)

# renovate: datasource=docker depName=supabase/postgres-meta
SUPABASE_META = ImagePin(
    name="supabase-meta",
    repository="docker.io/supabase/postgres-meta",
    tag="v0.95.2",
    arches=BOTH,
    programs=frozenset({"bash", "node", "sh"}),
    size_mb=450,
    pinned="2026-11-21",
)

# No shell in it: secrets come from files, and it probes itself.
# renovate: datasource=docker depName=postgrest/postgrest
SUPABASE_REST = ImagePin(
    name="supabase-rest",
    repository="docker.io/postgrest/postgrest",
    tag="v14.5",
    arches=BOTH,
    programs=frozenset({"postgrest"}),
    size_mb=40,
    pinned="2026-11-21",
)

# renovate: datasource=docker depName=supabase/studio
SUPABASE_STUDIO = ImagePin(
    name="supabase-studio",
    repository="docker.io/supabase/studio",
    tag="2026.02.16-sha-26c615c",
    arches=BOTH,
    programs=frozenset({"bash", "node", "sh"}),
    size_mb=900,
    pinned="2026-11-21",
)

# renovate: datasource=docker depName=busybox
TOOLS = ImagePin(
    name="tools",
    repository="docker.io/library/busybox",
    tag="1.37.0",
    arches=BOTH,
    programs=frozenset({"cat", "chmod", "chown", "cp", "mkdir", "nc", "sh", "sleep", "wget"}),
    size_mb=5,
    pinned="2026-11-21",
)

# The rules' long-term line, the one whose rules the air-gapped image has. Its own start, which writes to /etc, is not
# used.
# renovate: datasource=docker depName=owasp/modsecurity-crs
WAF = ImagePin(
    name="waf",
    repository="docker.io/owasp/modsecurity-crs",
    tag="4.25-nginx-lts",
    arches=BOTH,
    programs=frozenset({"bash", "curl", "nginx", "perl", "sh"}),
    size_mb=250,
    pinned="2026-11-22",
)
